package chaos

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/leader"
)

// takeover is how soon another leads. What is beyond the promised ten seconds
// is for a machine that is too busy to run processes in time.
const (
	takeover     = 10 * time.Second
	takeoverMost = 3 * takeover
)

// TestTakeover kills the replica that leads, and stops another past its lease:
// each is followed, and the one that wakes leads no more.
func TestTakeover(t *testing.T) {
	w := newWorld(t)
	first, term := w.leading()
	at := time.Now()
	first.kill()
	second, term2 := w.followed(first, term)
	killed := time.Since(at)
	first.start()
	first.awaitReady()

	at = time.Now()
	second.pause(true)
	third, term3 := w.followed(second, term2)
	paused := time.Since(at)
	second.pause(false)
	w.insistOn("the one that woke says that it leads no more", func() bool {
		return says(second, "this replica leads no more", term2)
	})
	rest(t.Context(), leader.Lease) // in which it could take the lead back
	if now, term := w.leading(); now != third || term != term3 {
		t.Errorf("the one that woke disturbs: term %d became %d", term3, term)
	}
	for what, took := range map[string]time.Duration{"killed": killed, "paused": paused} {
		if took > takeover {
			t.Logf("the %s leader was followed after %v", what, took)
		}
	}
	report(t, map[string]any{"suite": "takeover", "after_kill_s": killed.Seconds(), "after_pause_s": paused.Seconds(), "promised_s": takeover.Seconds()})
}

// leading is the replica that leads by the books, and says so itself.
func (w *world) leading() (leads *replica, term int64) {
	w.t.Helper()
	w.insistOn("a replica leads", func() bool {
		var fence int64
		if err := w.db.query("SELECT coalesce(max(fence), 0) FROM leaders WHERE name = 'scheduler'", &fence); err != nil {
			w.t.Fatal(err)
		}
		for _, r := range w.replicas {
			if fence > 0 && says(r, "this replica leads", fence) && !says(r, "this replica leads no more", fence) {
				leads, term = r, fence
				return true
			}
		}
		return false
	})
	return leads, term
}

// followed waits until another replica leads in a later term.
func (w *world) followed(before *replica, term int64) (leads *replica, next int64) {
	w.t.Helper()
	w.insistOn("another replica leads", func() bool {
		var fence int64
		if err := w.db.query("SELECT fence FROM leaders WHERE name = 'scheduler'", &fence); err != nil {
			w.t.Fatal(err)
		}
		return fence > term
	})
	leads, next = w.leading()
	if leads == before {
		w.t.Fatalf("who led in term %d leads in %d", term, next)
	}
	return leads, next
}

// insistOn polls until ok.
func (w *world) insistOn(what string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(takeoverMost); !ok(); rest(w.t.Context(), 50*time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("not within %v: %s", takeoverMost, what)
		}
	}
}

// says looks into a replica's log for a message about a term of the leader of
// the scheduler's work.
func says(r *replica, message string, term int64) bool {
	text, err := os.ReadFile(filepath.Join(r.data, "log"))
	if err != nil {
		r.t.Fatal(err)
	}
	return strings.Contains(string(text), fmt.Sprintf("msg=%q work=scheduler term=%d\n", message, term))
}
