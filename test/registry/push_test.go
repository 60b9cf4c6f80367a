package registry_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob/fs"
	"github.com/nimbus-ci/nimbus/internal/registry"
	"github.com/nimbus-ci/nimbus/internal/store/storetest"
)

// TestUploadGoesOnAnywhere sends the parts of a blob to replicas by turns: each
// goes on with the hash where another has left it.
func TestUploadGoesOnAnywhere(t *testing.T) {
	t.Parallel()
	onEngines(t, registry.Limits{}, func(t *testing.T, w *world) {
		o := w.org("acme")
		one := w.client(w.token(o, nimbus.RoleDeveloper))
		two := &pusher{t, w.replica().url, one.token}
		for _, algorithm := range []string{registry.SHA256, registry.SHA512} {
			for _, said := range []bool{true, false} {
				content := fresh(300_000)
				digest := registry.Of(algorithm, content)
				begin := "/v2/acme/app/blobs/uploads/"
				if said {
					begin += "?digest-algorithm=" + algorithm
				}
				a := one.do("POST", begin, nil).want(t, 202, "")
				for i, c := range []*pusher{two, one, two} {
					a = c.do("PATCH", c.at(a), content[i*100_000:(i+1)*100_000], "Content-Range", fmt.Sprintf("%d-%d", i*100_000, (i+1)*100_000-1)).want(t, 202, "")
					if got := a.header.Get("Range"); got != fmt.Sprintf("0-%d", (i+1)*100_000-1) {
						t.Errorf("after part %d the range is %q", i, got)
					}
				}
				one.do("PUT", one.at(a, "digest", string(digest)), nil).want(t, 201, "")
				one.do("GET", one.at(a), nil).want(t, 404, "BLOB_UPLOAD_UNKNOWN")
				got := two.do("GET", "/v2/acme/app/blobs/"+string(digest), nil).want(t, 200, "")
				if !bytes.Equal(got.body, content) {
					t.Errorf("%s of parts reads back as %d bytes of %d", algorithm, len(got.body), len(content))
				}
				part := two.do("GET", "/v2/acme/app/blobs/"+string(digest), nil, "Range", "bytes=99990-200009").want(t, 206, "")
				if !bytes.Equal(part.body, content[99990:200010]) || part.header.Get("Content-Range") != "bytes 99990-200009/300000" {
					t.Errorf("a range over three parts is %d bytes, %s", len(part.body), part.header.Get("Content-Range"))
				}
				two.do("GET", "/v2/acme/app/blobs/"+string(digest), nil, "Range", "bytes=300000-").want(t, 416, "SIZE_INVALID")
			}
		}
	})
}

// TestWrongPushesLeaveNothing: what is not what it was announced as is refused,
// and neither content nor bytes in the books stay of it.
func TestWrongPushesLeaveNothing(t *testing.T) {
	t.Parallel()
	onEngines(t, registry.Limits{Read: time.Nanosecond}, func(t *testing.T, w *world) {
		o := w.org("acme")
		c := w.client(w.token(o, nimbus.RoleDeveloper))
		content, other := fresh(50_000), registry.Of(registry.SHA256, []byte("other"))
		const uploads = "/v2/acme/app/blobs/uploads/"
		c.do("POST", uploads+"?digest="+string(other), content).want(t, 400, "DIGEST_INVALID")
		c.do("POST", uploads+"?digest=sha256:12", content).want(t, 400, "DIGEST_INVALID")
		c.do("POST", uploads+"?digest=md5:00", content).want(t, 400, "DIGEST_INVALID")
		a := c.do("POST", uploads, nil).want(t, 202, "")
		c.do("PUT", c.at(a, "digest", string(other)), content).want(t, 400, "DIGEST_INVALID")
		a = c.do("PATCH", c.at(a), content, "Content-Range", "0-49999").want(t, 202, "")
		c.do("PATCH", c.at(a), content, "Content-Range", "0-49999").want(t, 416, "BLOB_UPLOAD_INVALID")
		c.do("PATCH", c.at(a), content, "Content-Range", "50000-50001").want(t, 400, "SIZE_INVALID")
		c.do("PATCH", c.at(a), content, "Content-Range", "x").want(t, 400, "BLOB_UPLOAD_INVALID")
		if got := w.used(o); got != 50_000 {
			t.Errorf("an upload of 50000 bytes counts %d", got)
		}
		c.do("PUT", c.at(a, "digest", string(other)), nil).want(t, 400, "DIGEST_INVALID")
		c.do("GET", c.at(a), nil).want(t, 404, "BLOB_UPLOAD_UNKNOWN")
		a = c.do("POST", uploads, nil).want(t, 202, "")
		c.do("DELETE", c.at(a), nil).want(t, 204, "")
		c.do("PATCH", c.at(a), content).want(t, 404, "BLOB_UPLOAD_UNKNOWN")
		c.do("PATCH", uploads+"made.up.id", content).want(t, 404, "BLOB_UPLOAD_UNKNOWN")
		a = c.do("POST", uploads, nil).want(t, 202, "")
		c.do("PATCH", strings.Replace(c.at(a), "/app/", "/other/", 1), content).want(t, 404, "BLOB_UPLOAD_UNKNOWN")
		w.swept()
		if got := w.used(o); got != 0 || w.stored() != 0 {
			t.Errorf("%d bytes are counted, and %d contents are stored", got, w.stored())
		}
	})
}

// TestRangeWithoutLength: where a request does not say how long it is, its range does.
func TestRangeWithoutLength(t *testing.T) {
	t.Parallel()
	w := newWorld(t, engines["sqlite"](t), folder(t, t.TempDir()), registry.Limits{})
	c := w.client(w.token(w.org("acme"), nimbus.RoleDeveloper))
	content := fresh(20)
	at := c.at(c.do("POST", "/v2/acme/app/blobs/uploads/", nil).want(t, 202, ""))
	patch := func(body []byte, asked string, want int) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPatch, c.url+at, struct{ io.Reader }{bytes.NewReader(body)})
		w.must(err)
		r.SetBasicAuth("anybody", c.token)
		r.Header.Set("Content-Range", asked)
		a, err := http.DefaultClient.Do(r)
		w.must(err)
		w.must(a.Body.Close())
		if r.ContentLength != 0 || a.StatusCode != want {
			t.Errorf("%d bytes as %s are answered by %s, want %d", len(body), asked, a.Status, want)
		}
	}
	patch(content, "0-9", http.StatusBadRequest)
	patch(content[:9], "0-9", http.StatusBadRequest)
	patch(content[:10], "0-9", http.StatusAccepted)
	patch(content[10:], "10-19", http.StatusAccepted)
	c.do("PUT", at+"?digest="+string(registry.Of(registry.SHA256, content)), nil).want(t, 201, "")
}

// TestManifestsNameWhatIsThere: one is refused whose parts are not in the
// repository, or that is none.
func TestManifestsNameWhatIsThere(t *testing.T) {
	t.Parallel()
	onEngines(t, registry.Limits{}, func(t *testing.T, w *world) {
		c := w.client(w.token(w.org("acme"), nimbus.RoleOperator))
		config, layer := fresh(100), fresh(1000)
		m := manifestOf(config, layer)
		put := func(tag string, content []byte, mediaType string) answer {
			return c.do("PUT", "/v2/acme/app/manifests/"+tag, content, "Content-Type", mediaType)
		}
		put("v1", m, ociManifest).want(t, 400, "MANIFEST_BLOB_UNKNOWN")
		c.push("acme/app", config)
		c.push("acme/other", layer) // elsewhere is not here
		put("v1", m, ociManifest).want(t, 400, "MANIFEST_BLOB_UNKNOWN")
		mounted := c.do("POST", "/v2/acme/app/blobs/uploads/?mount="+string(registry.Of(registry.SHA256, layer))+"&from=acme/other", nil)
		mounted.want(t, 201, "")
		put("v1", m, ociManifest).want(t, 201, "")
		put("v1", []byte("no JSON"), ociManifest).want(t, 400, "MANIFEST_INVALID")
		for content, says := range map[string]string{
			`[]`:                    "a JSON array, and has to be an object",
			`"` + ociManifest + `"`: "a JSON string, and has to be an object",
			`{"schemaVersion":"2"}`: "field schemaVersion can't be a JSON string",
			`{"schemaVersion":2,"layers":[{"size":{}}]}`: "field layers.size can't be a JSON object",
			`{"layers":`: "it is no JSON: unexpected end",
		} {
			a := put("v1", []byte(content), ociManifest).want(t, 400, "MANIFEST_INVALID")
			if said := string(a.body); !strings.Contains(said, says) || strings.Contains(said, "struct") || strings.Contains(said, "Go ") {
				t.Errorf("%s is refused with %s", content, said)
			}
		}
		put("v1", m, "text/plain").want(t, 400, "MANIFEST_INVALID")
		put("v1", m, "application/vnd.docker.distribution.manifest.v2+json").want(t, 400, "MANIFEST_INVALID")
		put(".v1", m, ociManifest).want(t, 400, "MANIFEST_INVALID")
		put(string(registry.Of(registry.SHA256, layer)), m, ociManifest).want(t, 400, "DIGEST_INVALID")
		digest := registry.Of(registry.SHA256, m)
		for _, reference := range []string{"v1", string(digest)} {
			got := c.do("GET", "/v2/acme/app/manifests/"+reference, nil).want(t, 200, "")
			if !bytes.Equal(got.body, m) || got.header.Get("Content-Type") != ociManifest || got.header.Get("Docker-Content-Digest") != string(digest) {
				t.Errorf("%s is %d bytes, %v", reference, len(got.body), got.header)
			}
		}
		// What is in use stays; with its manifest it may go.
		blob := "/v2/acme/app/blobs/" + string(registry.Of(registry.SHA256, layer))
		c.do("DELETE", blob, nil).want(t, 405, "UNSUPPORTED")
		c.do("DELETE", "/v2/acme/app/manifests/"+string(digest), nil).want(t, 202, "")
		c.do("GET", "/v2/acme/app/manifests/v1", nil).want(t, 404, "MANIFEST_UNKNOWN")
		c.do("DELETE", blob, nil).want(t, 202, "")
		c.do("HEAD", blob, nil).want(t, 404, "")
		c.do("HEAD", strings.Replace(blob, "/app/", "/other/", 1), nil).want(t, 200, "")
	})
}

// TestDamagedContentIsLost: a content of another size than it had is as one that is
// not there: it is refused, told in the log, and can be pushed anew, in every
// repository.
func TestDamagedContentIsLost(t *testing.T) {
	t.Parallel()
	places := map[string]func(t *testing.T) registry.Blobs{
		"folder": func(t *testing.T) registry.Blobs { return folder(t, t.TempDir()) },
		"bucket": func(t *testing.T) registry.Blobs { return inBucket(t, bucket(t)) },
	}
	for name, place := range places {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, storetest.SQLite(t), place(t), registry.Limits{})
			c := w.client(w.token(w.org("acme"), nimbus.RoleDeveloper))
			content := fresh(300_000)
			digest := registry.Of(registry.SHA256, content)
			at := "/blobs/" + string(digest)
			wanted := []string{"", "bytes=0-9", "bytes=100-", "bytes=299999-"}
			for i, has := range []int{0, 1, 100, 299_999, 300_001} {
				c.push("acme/app", content)
				c.do("POST", "/v2/acme/other/blobs/uploads/?from=acme/app&mount="+string(digest), nil).want(t, 201, "")
				all, err := w.blobs.List(t.Context(), "registry/", "", 0)
				w.must(err)
				for _, b := range all {
					_, err := w.blobs.Put(t.Context(), b.Key, bytes.NewReader(append(content[:300_000:300_000], 0)[:has]), 1<<20)
					w.must(err)
				}
				c.do("GET", "/v2/acme/app"+at, nil, "Range", wanted[i%len(wanted)]).want(t, 404, "BLOB_UNKNOWN")
				c.do("HEAD", "/v2/acme/other"+at, nil).want(t, 404, "")
				if told := w.log.String(); strings.Count(told, "missing or damaged") != i+1 || !strings.Contains(told, fmt.Sprintf("it should have %d", 300_000)) && !strings.Contains(told, fmt.Sprintf("and should have %d", 300_000)) {
					t.Errorf("of %d bytes the log says %s", has, told)
				}
				c.push("acme/app", content)
				c.push("acme/other", content)
				for _, repo := range []string{"app", "other"} {
					if got := c.do("GET", "/v2/acme/"+repo+at, nil).want(t, 200, ""); !bytes.Equal(got.body, content) {
						t.Errorf("pushed anew it has %d bytes in %s", len(got.body), repo)
					}
				}
			}
		})
	}
}

// TestDamagedPartIsLost: of a content of several parts the second one is found only
// when it is sent. That pull breaks off, and the next one finds no blob.
func TestDamagedPartIsLost(t *testing.T) {
	t.Parallel()
	onEngines(t, registry.Limits{}, func(t *testing.T, w *world) {
		c := w.client(w.token(w.org("acme"), nimbus.RoleDeveloper))
		content := fresh(300_000)
		digest := string(registry.Of(registry.SHA256, content))
		a := c.do("POST", "/v2/acme/app/blobs/uploads/", nil).want(t, 202, "")
		a = c.do("PATCH", c.at(a), content[:200_000]).want(t, 202, "")
		c.do("PUT", c.at(a, "digest", digest), content[200_000:]).want(t, 201, "")
		all, err := w.blobs.List(t.Context(), "registry/", "", 0)
		w.must(err)
		for _, b := range all {
			if b.Size == 100_000 {
				_, err := w.blobs.Put(t.Context(), b.Key, bytes.NewReader(content[:50_000]), 1<<20)
				w.must(err)
			}
		}
		if got, err := c.try("GET", "/v2/acme/app/blobs/"+digest, nil); err == nil {
			t.Errorf("it is answered by %d, and %d bytes", got.status, len(got.body))
		}
		c.do("GET", "/v2/acme/app/blobs/"+digest, nil).want(t, 404, "BLOB_UNKNOWN")
		c.push("acme/app", content)
		if got := c.do("GET", "/v2/acme/app/blobs/"+digest, nil).want(t, 200, ""); !bytes.Equal(got.body, content) {
			t.Errorf("pushed anew it has %d bytes", len(got.body))
		}
	})
}

// TestQuotaIsTold: what has no room is refused in words that a person sees, and is
// not kept; what is shared counts once.
func TestQuotaIsTold(t *testing.T) {
	t.Parallel()
	onEngines(t, registry.Limits{Org: 100_000, Read: time.Nanosecond}, func(t *testing.T, w *world) {
		o := w.org("acme")
		c := w.client(w.token(o, nimbus.RoleOperator))
		shared := fresh(60_000)
		c.push("acme/one", shared)
		c.push("acme/two", shared)
		if got := w.used(o); got != 60_000 {
			t.Errorf("what two repositories share counts %d bytes", got)
		}
		big := fresh(40_001)
		a := c.do("POST", "/v2/acme/one/blobs/uploads/?digest="+string(registry.Of(registry.SHA256, big)), big).want(t, 403, "DENIED")
		if !strings.Contains(string(a.body), "quota") || !strings.Contains(string(a.body), "100000") {
			t.Errorf("the refusal is %s", a.body)
		}
		w.pass(2 * time.Second)
		c.push("acme/one", fresh(40_000))
		w.must(w.replicas[0].SetQuota(t.Context(), nimbus.Principal{Kind: nimbus.PrincipalAdmin, Subject: "admin"}, o.ID, 200_000))
		w.pass(2 * time.Second)
		c.push("acme/one", big)
		if w.stored() != 3 {
			t.Errorf("%d contents are stored, want 3", w.stored())
		}
	})
}

// fullDisk is a place on a disk that has no room for anything more.
type fullDisk struct {
	*fs.Store

	full atomic.Bool
}

// Spare shadows the store's.
func (d *fullDisk) Spare(n int64) error {
	if d.full.Load() {
		return &nimbus.Error{Code: nimbus.CodeUnavailable, Message: "full", Err: syscall.ENOSPC}
	}
	return d.Store.Spare(n)
}

// TestManifestsLeaveTheDiskItsRest: they are in the database, and don't take what
// contents leave to it.
func TestManifestsLeaveTheDiskItsRest(t *testing.T) {
	t.Parallel()
	place, err := fs.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { place.Close() })
	disk := &fullDisk{Store: place}
	w := newWorld(t, engines["sqlite"](t), disk, registry.Limits{})
	c := w.client(w.token(w.org("acme"), nimbus.RoleOperator))
	m := c.image("acme/app", "v1", fresh(10))
	disk.full.Store(true)
	c.do("PUT", "/v2/acme/app/manifests/v2", m, "Content-Type", ociManifest).want(t, 507, "DENIED")
	c.do("GET", "/v2/acme/app/manifests/v1", nil).want(t, 200, "")
	c.do("DELETE", "/v2/acme/app/manifests/v1", nil).want(t, 202, "")
	disk.full.Store(false)
	c.do("PUT", "/v2/acme/app/manifests/v2", m, "Content-Type", ociManifest).want(t, 201, "")
}

// TestFullQuotaIsReadByWhoSends: who sends all of a layer before looking at the
// answer finds there that the quota is full, however the layer is sent.
func TestFullQuotaIsReadByWhoSends(t *testing.T) {
	t.Parallel()
	w := newWorld(t, storetest.SQLite(t), folder(t, t.TempDir()), registry.Limits{Org: 100_000})
	c := w.client(w.token(w.org("acme"), nimbus.RoleDeveloper))
	content := fresh(40 << 20) // more than sockets hold
	digest := string(registry.Of(registry.SHA256, content))
	const uploads = "/v2/acme/app/blobs/uploads/"
	begun := func() answer { return c.do("POST", uploads, nil).want(t, 202, "") }
	for name, to := range map[string]struct{ method, path string }{
		"POST":  {"POST", uploads + "?digest=" + digest},
		"PATCH": {"PATCH", c.at(begun())},
		"PUT":   {"PUT", c.at(begun(), "digest", digest)},
	} {
		for _, size := range []int64{int64(len(content)), -1} {
			request, err := http.NewRequestWithContext(t.Context(), to.method, c.url+to.path, struct{ io.Reader }{bytes.NewReader(content)})
			w.must(err)
			request.ContentLength = size
			request.SetBasicAuth("anybody", c.token)
			line, err := new(net.Dialer).DialContext(t.Context(), "tcp", request.URL.Host)
			w.must(err)
			if err := request.Write(line); err != nil {
				t.Errorf("%s of %d bytes breaks off: %v", name, size, err)
			} else if got, err := http.ReadResponse(bufio.NewReader(line), request); err != nil {
				t.Errorf("%s of %d bytes has no answer: %v", name, size, err)
			} else {
				body, err := io.ReadAll(got.Body)
				w.must(err)
				answer{got.StatusCode, got.Header, body}.want(t, 403, "DENIED")
			}
			w.must(line.Close())
		}
	}
}

// TestLayersFromElsewhere: a layer that may be had from others need not be here, and
// stays as long as its image where it is.
func TestLayersFromElsewhere(t *testing.T) {
	t.Parallel()
	onEngines(t, registry.Limits{}, func(t *testing.T, w *world) {
		o := w.org("acme")
		c := w.client(w.token(o, nimbus.RoleOperator))
		config, here, away := fresh(10), fresh(20), fresh(30)
		c.push("acme/app", config)
		c.push("acme/app", here)
		layer := func(content []byte) string {
			return fmt.Sprintf(`{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","digest":%q,"size":%d,"urls":["https://elsewhere.example/x"]}`, registry.Of(registry.SHA256, content), len(content))
		}
		m := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/x","digest":%q,"size":10},"layers":[%s,%s]}`,
			ociManifest, registry.Of(registry.SHA256, config), layer(here), layer(away))
		c.do("PUT", "/v2/acme/app/manifests/v1", m, "Content-Type", ociManifest).want(t, 201, "")
		w.pass(25 * time.Hour)
		w.swept()
		blob := "/v2/acme/app/blobs/" + string(registry.Of(registry.SHA256, here))
		c.do("GET", blob, nil).want(t, 200, "")
		c.do("DELETE", blob, nil).want(t, 405, "UNSUPPORTED")
		c.do("GET", "/v2/acme/app/blobs/"+string(registry.Of(registry.SHA256, away)), nil).want(t, 404, "BLOB_UNKNOWN")
		c.do("DELETE", "/v2/acme/app/manifests/"+string(registry.Of(registry.SHA256, m)), nil).want(t, 202, "")
		w.pass(25 * time.Hour)
		w.swept()
		if got := w.used(o); got != 0 {
			t.Errorf("%d bytes are left", got)
		}
	})
}

// TestImmutableTags: a tag that is there stays what it is, where a repository is
// set so.
func TestImmutableTags(t *testing.T) {
	t.Parallel()
	onEngines(t, registry.Limits{}, func(t *testing.T, w *world) {
		o := w.org("acme")
		c := w.client(w.token(o, nimbus.RoleDeveloper))
		first := c.image("acme/app", "v1", fresh(10), fresh(20))
		admin := nimbus.Principal{Kind: nimbus.PrincipalAdmin, Subject: "admin"}
		w.must(w.replicas[0].SetImageRules(t.Context(), admin, o.ID, "app", nimbus.ImageRules{Immutable: true}))
		config, layer := fresh(10), fresh(20)
		c.push("acme/app", config)
		c.push("acme/app", layer)
		c.do("PUT", "/v2/acme/app/manifests/v1", manifestOf(config, layer), "Content-Type", ociManifest).want(t, 409, "DENIED")
		c.do("PUT", "/v2/acme/app/manifests/v2", manifestOf(config, layer), "Content-Type", ociManifest).want(t, 201, "")
		c.do("PUT", "/v2/acme/app/manifests/v1", first, "Content-Type", ociManifest).want(t, 201, "")
		if got := c.do("GET", "/v2/acme/app/manifests/v1", nil); !bytes.Equal(got.body, first) {
			t.Errorf("the tag stands for something else")
		}
		// Nor does it go, to come back as something else, before the rule does.
		op := w.client(w.token(o, nimbus.RoleOperator))
		digest, untagged := string(registry.Of(registry.SHA256, first)), manifestOf(layer, config)
		op.do("DELETE", "/v2/acme/app/manifests/v1", nil).want(t, 409, "DENIED")
		op.do("DELETE", "/v2/acme/app/manifests/"+digest, nil).want(t, 409, "DENIED")
		if err := w.replicas[0].Remove(t.Context(), admin, o.ID, "app", ""); nimbus.ErrorCode(err) != nimbus.CodeConflict || !strings.Contains(nimbus.ErrorHint(err), "--immutable") {
			t.Errorf("all of them are removed: %v", err)
		}
		op.do("GET", "/v2/acme/app/manifests/v1", nil).want(t, 200, "")
		// Nor does it lose what it names.
		part := manifestOf(config, config)
		partOf := string(registry.Of(registry.SHA256, part))
		index := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`, ociIndex, ociManifest, partOf, len(part))
		op.do("PUT", "/v2/acme/app/manifests/"+partOf, part, "Content-Type", ociManifest).want(t, 201, "")
		op.do("PUT", "/v2/acme/app/manifests/parts", index, "Content-Type", ociIndex).want(t, 201, "")
		op.do("DELETE", "/v2/acme/app/manifests/"+partOf, nil).want(t, 409, "DENIED")
		op.do("DELETE", "/v2/acme/app/manifests/none", nil).want(t, 404, "MANIFEST_UNKNOWN")
		op.do("PUT", "/v2/acme/app/manifests/"+string(registry.Of(registry.SHA256, untagged)), untagged, "Content-Type", ociManifest).want(t, 201, "")
		op.do("DELETE", "/v2/acme/app/manifests/"+string(registry.Of(registry.SHA256, untagged)), nil).want(t, 202, "")
		w.must(w.replicas[0].SetImageRules(t.Context(), admin, o.ID, "app", nimbus.ImageRules{}))
		op.do("DELETE", "/v2/acme/app/manifests/v1", nil).want(t, 202, "")
		op.do("DELETE", "/v2/acme/app/manifests/"+digest, nil).want(t, 202, "")
		w.must(w.replicas[0].Remove(t.Context(), admin, o.ID, "app", ""))
	})
}

// TestReplicasForget: what one replica removes no other serves for longer than a
// second, and a tag is everywhere at once what it was pushed as.
func TestReplicasForget(t *testing.T) {
	t.Parallel()
	onEngines(t, registry.Limits{}, func(t *testing.T, w *world) {
		c := w.client(w.token(w.org("acme"), nimbus.RoleOperator))
		other := &pusher{t, w.replica().url, c.token}
		first := c.image("acme/app", "v1", fresh(10), fresh(20))
		digest := string(registry.Of(registry.SHA256, first))
		other.do("GET", "/v2/acme/app/manifests/v1", nil).want(t, 200, "")
		second := c.image("acme/app", "v1", fresh(10), fresh(20))
		if got := other.do("GET", "/v2/acme/app/manifests/v1", nil); !bytes.Equal(got.body, second) {
			t.Errorf("the other replica has the tag of before")
		}
		other.do("GET", "/v2/acme/app/manifests/"+digest, nil).want(t, 200, "")
		c.do("DELETE", "/v2/acme/app/manifests/"+digest, nil).want(t, 202, "")
		c.do("GET", "/v2/acme/app/manifests/"+digest, nil).want(t, 404, "MANIFEST_UNKNOWN")
		w.pass(time.Second)
		other.do("GET", "/v2/acme/app/manifests/"+digest, nil).want(t, 404, "MANIFEST_UNKNOWN")
	})
}

// TestLists: tags come by bytes and in pages, referrers by type and in pages.
func TestLists(t *testing.T) {
	t.Parallel()
	onEngines(t, registry.Limits{}, func(t *testing.T, w *world) {
		c := w.client(w.token(w.org("acme"), nimbus.RoleAdmin))
		m := c.image("acme/app", "b", fresh(10), fresh(20))
		for _, tag := range []string{"B", "a", "a.1", "a-1", "_x", "10", "9"} {
			c.do("PUT", "/v2/acme/app/manifests/"+tag, m, "Content-Type", ociManifest).want(t, 201, "")
		}
		if got := string(c.do("GET", "/v2/acme/app/tags/list", nil).body); got != `{"name":"acme/app","tags":["10","9","B","_x","a","a-1","a.1","b"]}` {
			t.Errorf("the tags are %s", got)
		}
		var all []string
		path := "/v2/acme/app/tags/list?n=3"
		for path != "" {
			a := c.do("GET", path, nil).want(t, 200, "")
			all = append(all, string(a.body))
			path, _, _ = strings.Cut(strings.TrimPrefix(a.header.Get("Link"), "<"), ">")
		}
		want := []string{`{"name":"acme/app","tags":["10","9","B"]}`, `{"name":"acme/app","tags":["_x","a","a-1"]}`, `{"name":"acme/app","tags":["a.1","b"]}`}
		if strings.Join(all, "\n") != strings.Join(want, "\n") {
			t.Errorf("the pages are %v", all)
		}
		c.do("GET", "/v2/acme/app/tags/list?n=-1", nil).want(t, 400, "")
		c.do("GET", "/v2/acme/none/tags/list", nil).want(t, 404, "NAME_UNKNOWN")
		subject := registry.Of(registry.SHA256, m)
		c.push("acme/app", []byte("{}"))
		for i := range 103 {
			about := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"artifactType":"application/x-%d","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[],"subject":{"mediaType":%q,"digest":%q,"size":%d},"annotations":{"n":"%d"}}`,
				ociManifest, i%2, registry.Of(registry.SHA256, []byte("{}")), ociManifest, subject, len(m), i)
			a := c.do("PUT", "/v2/acme/app/manifests/"+string(registry.Of(registry.SHA256, []byte(about))), []byte(about), "Content-Type", ociManifest).want(t, 201, "")
			if a.header.Get("Oci-Subject") != string(subject) {
				t.Errorf("a referrer is answered without its subject: %v", a.header)
			}
		}
		seen := 0
		for path = "/v2/acme/app/referrers/" + string(subject); path != ""; {
			a := c.do("GET", path, nil).want(t, 200, "")
			seen += strings.Count(string(a.body), `"annotations"`)
			path, _, _ = strings.Cut(strings.TrimPrefix(a.header.Get("Link"), "<"), ">")
		}
		some := c.do("GET", "/v2/acme/app/referrers/"+string(subject)+"?artifactType=application/x-1", nil).want(t, 200, "")
		if seen != 103 || strings.Count(string(some.body), `"annotations"`) != 51 || some.header.Get("Oci-Filters-Applied") != "artifactType" {
			t.Errorf("%d referrers of 103 are listed, and %d of 51 of one type", seen, strings.Count(string(some.body), `"annotations"`))
		}
		if got := string(c.do("GET", "/v2/_catalog", nil).want(t, 200, "").body); got != `{"repositories":["acme/app"]}` {
			t.Errorf("the catalog is %s", got)
		}
	})
}
