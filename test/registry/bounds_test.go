package registry_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

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

// TestReferrersAreBounded: what is told at once about an image is not larger than one
// manifest, however many annotations there are; and what people list has none.
func TestReferrersAreBounded(t *testing.T) {
	t.Parallel()
	onEngines(t, registry.Limits{}, func(t *testing.T, w *world) {
		o := w.org("acme")
		c := w.client(w.token(o, nimbus.RoleDeveloper))
		m := c.image("acme/app", "v1", []byte("config"))
		subject := registry.Of(registry.SHA256, m)
		const each, all = registry.MaxManifest/2 - 2000, 5 // two fit
		for i := range all {
			about := append(bytes.TrimSuffix(m, []byte("}")), fmt.Sprintf(`,"subject":{"digest":%q},"annotations":{"n":"%d","a":"%s"}}`, subject, i, strings.Repeat("a", each))...)
			c.do("PUT", "/v2/acme/app/manifests/"+string(registry.Of(registry.SHA256, about)), about, "Content-Type", ociManifest).want(t, 201, "")
		}
		var pages []int
		seen := map[string]bool{}
		for path := "/v2/acme/app/referrers/" + string(subject); path != ""; {
			a := c.do("GET", path, nil).want(t, 200, "")
			var list struct {
				Manifests []struct {
					Annotations map[string]string `json:"annotations"`
				} `json:"manifests"`
			}
			w.must(json.Unmarshal(a.body, &list))
			for _, about := range list.Manifests {
				if seen[about.Annotations["n"]] = true; len(about.Annotations["a"]) != each {
					t.Errorf("one comes with %d bytes of %d", len(about.Annotations["a"]), each)
				}
			}
			pages = append(pages, len(list.Manifests))
			path, _, _ = strings.Cut(strings.TrimPrefix(a.header.Get("Link"), "<"), ">")
		}
		if !slices.Equal(pages, []int{2, 2, 1}) || len(seen) != all {
			t.Errorf("%d are told, in pages of %v", len(seen), pages)
		}
		_, images, _, err := w.replicas[0].ListImages(t.Context(), o.ID, "app", nimbus.PageRequest{})
		if err != nil || len(images) != 1 || len(images[0].Referrers) != all {
			t.Errorf("people see %+v, %v", images, err)
		}
	})
}

// slowly is a manifest whose sender takes his time.
type slowly struct {
	conn net.Conn
	from *bufio.Reader
	body []byte
}

// slowly begins to send a manifest, and returns once the server waits for it.
func (c *pusher) slowly(path string, body []byte) *slowly {
	c.t.Helper()
	at, err := url.Parse(c.url)
	if err != nil {
		c.t.Fatal(err)
	}
	conn, err := (&net.Dialer{}).DialContext(c.t.Context(), "tcp", at.Host)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	r, err := http.NewRequestWithContext(c.t.Context(), http.MethodPut, c.url+path, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	r.SetBasicAuth("anybody", c.token)
	_, err = fmt.Fprintf(conn, "PUT %s HTTP/1.1\r\nHost: %s\r\nAuthorization: %s\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", path, at.Host, r.Header.Get("Authorization"), len(body))
	s := &slowly{conn, bufio.NewReader(conn), body}
	for err == nil {
		var line string
		if line, err = s.from.ReadString('\n'); line == "\r\n" {
			return s
		}
		if !strings.HasPrefix(line, "HTTP/1.1 100 ") && err == nil {
			err = fmt.Errorf("the server says %q", line)
		}
	}
	c.t.Fatal(err)
	return nil
}

// goOn sends it.
func (s *slowly) goOn(t *testing.T) {
	t.Helper()
	if _, err := s.conn.Write(s.body); err != nil {
		t.Error(err)
	}
	a, err := http.ReadResponse(s.from, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	if a.StatusCode != http.StatusCreated {
		t.Errorf("what comes slowly is answered by %s", a.Status)
	}
}

// TestLargeManifestsTakeTurns: who sends large manifests slowly keeps neither others
// of his org from sending small ones, nor other orgs from sending theirs.
func TestLargeManifestsTakeTurns(t *testing.T) {
	t.Parallel()
	w := newWorld(t, engines["sqlite"](t), folder(t, t.TempDir()), registry.Limits{Turn: time.Millisecond})
	c, other := w.client(w.token(w.org("acme"), nimbus.RoleDeveloper)), w.client(w.token(w.org("other"), nimbus.RoleDeveloper))
	long := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[],"annotations":{"a":"%s"}}`, ociIndex, strings.Repeat("a", 100<<10))
	small := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[]}`, ociIndex)
	put := func(c *pusher, org string, m []byte) answer {
		return c.do("PUT", "/v2/"+org+"/app/manifests/v1", m, "Content-Type", ociIndex)
	}
	const ofOrg = 4
	slow := make([]*slowly, ofOrg)
	for i := range slow {
		slow[i] = c.slowly("/v2/acme/app/manifests/slow", long)
	}
	put(c, "acme", long).want(t, 429, "TOOMANYREQUESTS")
	put(c, "acme", small).want(t, 201, "")
	put(other, "other", long).want(t, 201, "")
	for _, s := range slow {
		s.goOn(t)
	}
	put(c, "acme", long).want(t, 201, "")
}

// TestManyTags lists 100,000 tags, in pages whose cost does not depend on how many
// there are, nor on how far along they are. It is alone: what it measures is all that
// the process allocates.
func TestManyTags(t *testing.T) {
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
