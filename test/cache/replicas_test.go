package cache_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/store"
)

// TestReplicasAreOne: whichever of two replicas is asked, on one database and one
// bucket, it is the same cache.
func TestReplicasAreOne(t *testing.T) {
	plane := newReplicas(t, nimbusProgram(t))
	at := func(i int) raw { return raw{&world{t: t, url: plane.replicas[i].url}, plane.token} }
	one, two := at(0), at(1)
	toTwo := func(target string) string { return elsewhere(target, one.url, two.url) }

	t.Run("begun at one, sent to both, committed at the other", func(t *testing.T) {
		parts := []string{strings.Repeat("a", MiB), strings.Repeat("b", MiB+1), "c", strings.Repeat("d", 3*MiB)}
		target, ids := one.uploadURL("both"), []string{"a", "b", "c", "d"}
		for i, part := range parts {
			to := target
			if i%2 == 1 {
				to = toTwo(target)
			}
			if a := one.putBlock(to, ids[i], part); a.status != http.StatusCreated {
				t.Fatalf("%d %s", a.status, a.body)
			}
		}
		// Once more, by the other one: the last one of a block counts.
		if a := one.putBlock(toTwo(target), "a", strings.Repeat("A", MiB)); a.status != http.StatusCreated {
			t.Fatalf("%d %s", a.status, a.body)
		}
		parts[0] = strings.Repeat("A", MiB)
		if a := one.putList(toTwo(target), ids...); a.status != http.StatusCreated {
			t.Fatalf("%d %s", a.status, a.body)
		}
		whole := strings.Join(parts, "")
		for _, r := range []raw{two, one} { // at one it is the answer that got lost
			if a := r.finalize("both", len(whole)); !a.ok() {
				t.Fatalf("%d %s", a.status, a.body)
			}
		}
		for _, r := range []raw{one, two} {
			r.holds("both", whole)
			if a := r.create("both"); a.status != http.StatusConflict {
				t.Errorf("the key again: %d %s", a.status, a.body)
			}
		}
	})

	t.Run("one key at once", func(t *testing.T) {
		for round := range 5 {
			key := fmt.Sprintf("race-%d", round)
			var all sync.WaitGroup
			winners := make(chan string, 8)
			for n := range 8 {
				r, content := at(n%2), strings.Repeat(fmt.Sprint(n), 1000+n)
				all.Go(func() {
					a := r.create(key)
					if !a.ok() {
						if a.status != http.StatusConflict {
							t.Errorf("%d %s", a.status, a.body)
						}
						return
					}
					r.putBlob(a.text("signed_upload_url"), content)
					var commits sync.WaitGroup
					for i := range 2 {
						commits.Go(func() {
							if a := at(i).finalize(key, len(content)); !a.ok() {
								t.Errorf("%d %s", a.status, a.body)
							}
						})
					}
					commits.Wait()
					winners <- content
				})
			}
			all.Wait()
			if len(winners) != 1 {
				t.Fatalf("%d of them saved %s", len(winners), key)
			}
			won := <-winners
			one.holds(key, won)
			two.holds(key, won)
		}
	})

	t.Run("what one reads makes no room at the other", func(t *testing.T) {
		db, err := store.Open(t.Context(), store.Config{DSN: plane.database, AsIs: true})
		one.must(err)
		defer db.Close()
		content := bytes.Repeat([]byte("0123456789abcdef"), 4*MiB/16)
		two.keep("read", string(content))
		st, _, err := db.CacheUsage(t.Context(), nimbus.DefaultOrgID, 1)
		one.must(err)
		// There is room for what is there, and not for as much again.
		one.must(db.SetCacheQuota(t.Context(), nimbus.DefaultOrgID, "*", st.Bytes+MiB, nimbus.AuditEvent{}))
		answer, err := http.Get(two.find("read").text("signed_download_url"))
		one.must(err)
		defer answer.Body.Close()
		head := make([]byte, 16)
		_, err = io.ReadFull(answer.Body, head)
		one.must(err)
		if a := one.putBlob(one.uploadURL("large"), strings.Repeat("x", int(st.Bytes))); a.status == http.StatusCreated {
			t.Errorf("what is read has made room: %d", a.status)
		} else if !strings.Contains(a.body, "insufficient usage") {
			t.Errorf("the refusal does not tell why: %d %s", a.status, a.body)
		}
		rest, err := io.ReadAll(answer.Body)
		one.must(err)
		if !bytes.Equal(slices.Concat(head, rest), content) {
			t.Error("it was read otherwise than it was saved")
		}
		one.must(db.SetCacheQuota(t.Context(), nimbus.DefaultOrgID, "*", -1, nimbus.AuditEvent{}))
		if a := one.putBlob(one.uploadURL("large again"), strings.Repeat("x", int(st.Bytes))); a.status != http.StatusCreated {
			t.Errorf("with room again: %d %s", a.status, a.body)
		}
	})
}
