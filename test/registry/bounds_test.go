package registry_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/registry"
)

// TestManyLayers pushes a manifest of 10,000 layers, which is as many as there are
// in one, and pulls it; and one that is a byte too long is refused before it is read.
func TestManyLayers(t *testing.T) {
	t.Parallel()
	onEngines(t, registry.Limits{}, func(t *testing.T, w *world) {
		o := w.org("acme")
		c := w.client(w.token(o, nimbus.RoleOperator))
		p := registry.Place{OrgID: o.ID, Repo: "app"}
		blobs := make([][]byte, 10_000)
		for i := range blobs {
			blobs[i] = fmt.Append(nil, "layer ", i)
			if i == 0 { // the config, which is read
				c.push("acme/app", blobs[i])
				continue
			}
			_, err := w.db.PutRegistryBlob(t.Context(), p, registry.Blob{Digest: registry.Of(registry.SHA256, blobs[i]), Size: int64(len(blobs[i])), Path: fmt.Sprint("made-", i)},
				registry.Limits{}.WithDefaults())
			if i == 1 || i == len(blobs)-1 {
				w.must(err)
			}
		}
		m := manifestOf(blobs...)
		c.do("PUT", "/v2/acme/app/manifests/v1", m, "Content-Type", ociManifest).want(t, 201, "")
		if got := c.do("GET", "/v2/acme/app/manifests/v1", nil).want(t, 200, ""); !bytes.Equal(got.body, m) {
			t.Errorf("it comes back as %d bytes of %d", len(got.body), len(m))
		}
		c.do("PUT", "/v2/acme/app/manifests/v2", manifestOf(slices.Concat(blobs, [][]byte{[]byte("another")})...), "Content-Type", ociManifest).want(t, 400, "MANIFEST_BLOB_UNKNOWN")
		c.do("DELETE", "/v2/acme/app/manifests/"+string(registry.Of(registry.SHA256, m)), nil).want(t, 202, "")
	})
}

// TestLongManifests: one of 4 MiB is taken, and one of a byte more is not, whether
// its length is told or not.
func TestLongManifests(t *testing.T) {
	t.Parallel()
	onEngines(t, registry.Limits{}, func(t *testing.T, w *world) {
		c := w.client(w.token(w.org("acme"), nimbus.RoleDeveloper))
		m := manifestOf([]byte("config"))
		c.push("acme/app", []byte("config"))
		long := append(bytes.TrimSuffix(m, []byte("}")), `,"annotations":{"a":"`...)
		long = append(long, bytes.Repeat([]byte("a"), registry.MaxManifest-len(long)-3)...)
		long = append(long, `"}}`...)
		c.do("PUT", "/v2/acme/app/manifests/v1", long, "Content-Type", ociManifest).want(t, 201, "")
		if got := c.do("GET", "/v2/acme/app/manifests/v1", nil).want(t, 200, ""); !bytes.Equal(got.body, long) {
			t.Errorf("it comes back as %d bytes of %d", len(got.body), len(long))
		}
		c.do("PUT", "/v2/acme/app/manifests/v2", append(long, ' '), "Content-Type", ociManifest).want(t, 413, "MANIFEST_INVALID")
		c.do("PUT", "/v2/acme/app/manifests/v2", append(m, '{'), "Content-Type", ociManifest).want(t, 400, "MANIFEST_INVALID")
		many := `{"schemaVersion":2,"mediaType":"` + ociManifest + `","config":` + strings.Repeat(`[`, 100_000)
		c.do("PUT", "/v2/acme/app/manifests/v2", []byte(many), "Content-Type", ociManifest).want(t, 400, "MANIFEST_INVALID")
	})
}

// TestManyTags lists 100,000 tags, in pages whose cost does not depend on how many
// there are, nor on how far along they are.
func TestManyTags(t *testing.T) {
	t.Parallel()
	const all = 100_000
	w := newWorld(t, engines["sqlite"](t), folder(t, t.TempDir()), registry.Limits{})
	o := w.org("acme")
	c := w.client(w.token(o, nimbus.RoleDeveloper))
	m, err := registry.ParseManifest(c.image("acme/app", "v1", []byte("config")), "", "")
	w.must(err)
	tags := make([]string, all)
	for i := range tags {
		tags[i] = fmt.Sprintf("t%06d", i)
	}
	w.must(w.db.PutRegistryManifest(t.Context(), registry.Place{OrgID: o.ID, Repo: "app"}, m, tags, registry.Limits{}.WithDefaults()))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	seen, pages, last := 0, 0, ""
	for path := "/v2/acme/app/tags/list"; path != ""; pages++ {
		a := c.do("GET", path, nil).want(t, 200, "")
		var list struct {
			Tags []string `json:"tags"`
		}
		w.must(json.Unmarshal(a.body, &list))
		if len(list.Tags) > registry.MaxPage || len(list.Tags) == 0 || list.Tags[0] <= last {
			t.Fatalf("page %d has %d tags behind %s", pages, len(list.Tags), last)
		}
		seen, last = seen+len(list.Tags), list.Tags[len(list.Tags)-1]
		path, _, _ = strings.Cut(strings.TrimPrefix(a.header.Get("Link"), "<"), ">")
	}
	runtime.ReadMemStats(&after)
	if seen != all+1 {
		t.Errorf("%d tags of %d are listed", seen, all+1)
	}
	// All that was allocated, by the client too: some hundred bytes for each tag.
	if each := (after.TotalAlloc - before.TotalAlloc) / all; each > 4096 {
		t.Errorf("each tag has cost %d bytes", each)
	}
	c.do("GET", "/v2/acme/app/manifests/t099999", nil).want(t, 200, "")
}
