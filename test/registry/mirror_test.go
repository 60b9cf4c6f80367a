package registry_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/registry"
)

// TestMirror pulls an image by way of a mirror: once from upstream, then from here,
// also when upstream is away; a tag that has moved is seen once it is not believed
// any more.
func TestMirror(t *testing.T) {
	t.Parallel()
	onMirrors(t, registry.Limits{}, func(t *testing.T, w *mirrorWorld) {
		config, small, large := fresh(500), fresh(900_000), fresh(40<<20)
		manifest := w.hub.client.image("lib/base", "v1", config, small, large)
		digest := registry.Of(registry.SHA256, manifest)
		c := w.client(w.token)
		pull := func(stale bool) {
			t.Helper()
			got := c.do("GET", "/v2/acme/hub.test/lib/base/manifests/v1", nil).want(t, 200, "")
			if !bytes.Equal(got.body, manifest) || got.header.Get("Docker-Content-Digest") != string(digest) || (got.header.Get("Warning") != "") != stale {
				t.Errorf("the manifest is %.200s with %v", got.body, got.header)
			}
			for _, content := range [][]byte{config, small, large} {
				of := registry.Of(registry.SHA256, content)
				if got := c.do("GET", "/v2/acme/hub.test/lib/base/blobs/"+string(of), nil).want(t, 200, ""); !bytes.Equal(got.body, content) {
					t.Errorf("%s comes as %d other bytes", of, len(got.body))
				}
			}
		}
		c.do("HEAD", "/v2/acme/hub.test/lib/base/blobs/"+string(registry.Of(registry.SHA256, large)), nil).want(t, 200, "")
		if n := w.hub.count("GET blobs"); n != 0 {
			t.Errorf("a HEAD fetches %d blobs", n)
		}
		pull(false)
		if manifests, blobs := w.hub.count("GET manifests"), w.hub.count("GET blobs"); manifests != 1 || blobs != 3 {
			t.Errorf("the first pull asks for %d manifests and %d blobs", manifests, blobs)
		}
		pull(false)
		part := c.do("GET", "/v2/acme/hub.test/lib/base/blobs/"+string(registry.Of(registry.SHA256, large)), nil, "Range", "bytes=20000000-20000099").want(t, 206, "")
		if !bytes.Equal(part.body, large[20_000_000:20_000_100]) {
			t.Error("a part is another one")
		}
		if n := w.hub.count("GET manifests") + w.hub.count("HEAD manifests") + w.hub.count("GET blobs"); n != 0 {
			t.Errorf("the second pull asks %d times", n)
		}
		w.pass(2 * time.Minute)
		pull(false)
		if looks, gets := w.hub.count("HEAD manifests"), w.hub.count("GET manifests"); looks != 1 || gets != 0 {
			t.Errorf("a tag is asked for again by %d looks and %d pulls", looks, gets)
		}
		w.pass(2 * time.Minute)
		w.hub.breaks(hangUp)
		pull(true)
		if m := w.shown(); m.Failure == "" || m.FailedAt.IsZero() || m.Repos != 1 || m.Bytes != int64(len(config)+len(small)+len(large)) {
			t.Errorf("an upstream is away, and the mirror is %+v", m)
		}
		since := w.shown().FailedAt
		w.pass(2 * time.Minute)
		pull(true)
		if m := w.shown(); !m.FailedAt.Equal(since) {
			t.Errorf("it fails since %s, and two minutes later since %s", since, m.FailedAt)
		}
		if w.heard.of("manifest stale") != 2 {
			t.Errorf("it is heard that %v", w.heard.what)
		}
		w.hub.breaks(nil)
		w.pass(time.Minute)
		manifest = w.hub.client.image("lib/base", "v1", config, fresh(10), large)
		small = config
		digest = registry.Of(registry.SHA256, manifest)
		pull(false)
		if m := w.shown(); m.Failure != "" {
			t.Errorf("upstream is back, and the mirror is %+v", m)
		}
		tags := c.do("GET", "/v2/acme/hub.test/lib/base/tags/list", nil).want(t, 200, "")
		if !strings.Contains(string(tags.body), `["v1"]`) {
			t.Errorf("the tags are %s", tags.body)
		}
		// What the org pushed is counted apart.
		if own, mirrored := w.used(w.acme), w.used(nimbus.Org{ID: registry.MirrorAccount(w.acme.ID)}); own != 0 || mirrored < 40<<20 {
			t.Errorf("the org uses %d bytes, its mirrors %d", own, mirrored)
		}
	})
}

// TestMirrorOnce has 50 clients pull at once what is not here: each blob comes once
// from upstream, and everybody gets it while it comes.
func TestMirrorOnce(t *testing.T) {
	t.Parallel()
	onMirrors(t, registry.Limits{}, func(t *testing.T, w *mirrorWorld) {
		large := fresh(24 << 20)
		w.hub.client.image("lib/base", "v1", fresh(100), large)
		digest := registry.Of(registry.SHA256, large)
		halfway, goOn := make(chan struct{}), make(chan struct{})
		w.hub.breaks(func(rw http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, string(digest)) || r.Header.Get("Authorization") == "" {
				return false
			}
			rw.Header().Set("Content-Length", fmt.Sprint(len(large)))
			rw.Write(large[:20<<20])
			http.NewResponseController(rw).Flush()
			close(halfway) // twice would panic
			<-goOn
			rw.Write(large[20<<20:])
			return true
		})
		c := w.client(w.token)
		var group sync.WaitGroup
		began := make(chan struct{}, 50)
		for range 50 {
			group.Go(func() {
				c.do("GET", "/v2/acme/hub.test/lib/base/manifests/v1", nil).want(t, 200, "")
				r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.url+"/v2/acme/hub.test/lib/base/blobs/"+string(digest), nil)
				w.must(err)
				r.SetBasicAuth("anybody", c.token)
				answer, err := http.DefaultClient.Do(r)
				if err != nil {
					t.Error(err)
					return
				}
				defer answer.Body.Close()
				first := make([]byte, 1<<20)
				if _, err := io.ReadFull(answer.Body, first); err != nil || !bytes.Equal(first, large[:len(first)]) {
					t.Errorf("what comes first is something else: %v", err)
				}
				began <- struct{}{}
				rest, err := io.ReadAll(answer.Body)
				if err != nil || !bytes.Equal(rest, large[len(first):]) {
					t.Errorf("what comes then are %d other bytes: %v", len(rest), err)
				}
			})
		}
		<-halfway
		for range 50 {
			<-began // before upstream has sent it all
		}
		close(goOn)
		group.Wait()
		if manifests, blobs := w.hub.count("GET manifests"), w.hub.count("GET blobs"); manifests != 1 || blobs != 1 {
			t.Errorf("50 clients have upstream asked for %d manifests and %d blobs", manifests, blobs)
		}
	})
}

// TestMirrorAllows gives what the org allows, to those of the org, and takes no
// pushes.
func TestMirrorAllows(t *testing.T) {
	t.Parallel()
	onMirrors(t, registry.Limits{}, func(t *testing.T, w *mirrorWorld) {
		w.hub.client.image("lib/base", "v1", fresh(100))
		w.hub.client.image("lib/secret/x", "v1", fresh(100))
		w.set(nimbus.ImageMirrorChange{})
		c := w.client(w.token)
		for path, allow := range map[string]string{"lib/base": "lib/base", "lib/secret/x": "lib/*"} {
			at := "/v2/acme/hub.test/" + path + "/manifests/v1"
			c.do("GET", at, nil).want(t, 403, "DENIED")
			w.set(nimbus.ImageMirrorChange{Allow: []string{"other/*", allow}})
			c.do("GET", at, nil).want(t, 200, "")
			w.set(nimbus.ImageMirrorChange{Allow: []string{allow + "/more"}})
			c.do("GET", at, nil).want(t, 403, "DENIED") // though it is here
		}
		w.set(nimbus.ImageMirrorChange{Allow: []string{"*"}})
		c.do("POST", "/v2/acme/hub.test/lib/base/blobs/uploads/", nil).want(t, 403, "DENIED")
		c.do("PUT", "/v2/acme/hub.test/lib/base/manifests/v2", manifestOf(fresh(1)), "Content-Type", ociManifest).want(t, 403, "DENIED")
		w.client(w.world.token(w.acme, nimbus.RoleOperator)).do("DELETE", "/v2/acme/hub.test/lib/base/manifests/v1", nil).want(t, 403, "DENIED")
		c.do("GET", "/v2/acme/hub.test/lib/none/manifests/v1", nil).want(t, 404, "")
		// Another org neither has the mirror nor learns what is in it.
		stranger := w.client(w.world.token(w.org("rival"), nimbus.RoleAdmin))
		for _, org := range []string{"acme", "rival", "nobody"} {
			got := stranger.do("GET", "/v2/"+org+"/hub.test/lib/base/manifests/v1", nil)
			if want := map[string]int{"acme": 403, "rival": 404, "nobody": 403}[org]; got.status != want {
				t.Errorf("of %s a stranger gets %d %s", org, got.status, got.body)
			}
		}
		// Repositories below the name of a mirror would be hidden by it.
		own := w.client(w.world.token(w.acme, nimbus.RoleDeveloper))
		own.push("acme/own.test/x", fresh(10))
		err := w.replicas[0].SetMirror(t.Context(), w.admin, w.acme.ID, nimbus.ImageMirrorChange{Name: "own.test"})
		if nimbus.ErrorCode(err) != nimbus.CodeConflict {
			t.Errorf("a mirror comes over what was pushed: %v", err)
		}
	})
}

// TestMirrorLimited asks an upstream no more that wants a pause, on any replica, and
// serves what is here.
func TestMirrorLimited(t *testing.T) {
	t.Parallel()
	onMirrors(t, registry.Limits{}, func(t *testing.T, w *mirrorWorld) {
		w.hub.client.image("lib/base", "v1", fresh(100))
		w.hub.client.image("lib/other", "v1", fresh(100))
		c := w.client(w.token)
		at := "/v2/acme/hub.test/lib/base/manifests/v1"
		c.do("GET", at, nil).want(t, 200, "")
		w.hub.breaks(func(rw http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/token") {
				return false
			}
			rw.Header().Set("Retry-After", "600")
			rw.WriteHeader(http.StatusTooManyRequests)
			return true
		})
		w.pass(2 * time.Minute)
		if got := c.do("GET", at, nil).want(t, 200, ""); got.header.Get("Warning") == "" {
			t.Error("it is not said that it may be old")
		}
		w.hub.breaks(nil)
		w.hub.count("GET manifests")
		w.hub.count("HEAD manifests")
		w.replica()
		c.url = w.replicas[1].url
		w.pass(2 * time.Minute)
		c.do("GET", at, nil).want(t, 200, "")
		got := c.do("GET", "/v2/acme/hub.test/lib/other/manifests/v1", nil).want(t, 429, "TOOMANYREQUESTS")
		if got.header.Get("Retry-After") == "" {
			t.Error("it is not said when to try again")
		}
		if n := w.hub.count("GET manifests") + w.hub.count("HEAD manifests"); n != 0 {
			t.Errorf("upstream wants a pause, and is asked %d times", n)
		}
		if m := w.shown(); m.LimitedUntil.IsZero() {
			t.Errorf("the mirror is %+v", m)
		}
		w.pass(10 * time.Minute)
		c.do("GET", "/v2/acme/hub.test/lib/other/manifests/v1", nil).want(t, 200, "")
	})
}

// TestMirrorSpent: the last manifest that an upstream gives says so. What belongs to it
// comes, and what tags stand for is asked, but no replica asks for another manifest.
func TestMirrorSpent(t *testing.T) {
	t.Parallel()
	onMirrors(t, registry.Limits{}, func(t *testing.T, w *mirrorWorld) {
		layer := fresh(100)
		w.hub.client.image("lib/base", "v1", layer)
		w.hub.client.image("lib/other", "v1", fresh(100))
		w.replica()
		w.hub.breaks(func(rw http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/manifests/") {
				rw.Header().Set("Ratelimit-Remaining", "0;w=21600")
				rw.Header().Set("Ratelimit-Reset", "600")
			}
			return false
		})
		c, other := w.client(w.token), &pusher{t, w.replicas[1].url, w.token}
		at := "/v2/acme/hub.test/lib/base/manifests/v1"
		c.do("GET", at, nil).want(t, 200, "")
		w.pass(2 * time.Minute)
		for _, c := range []*pusher{c, other} {
			c.do("GET", "/v2/acme/hub.test/lib/other/manifests/v1", nil).want(t, 429, "TOOMANYREQUESTS")
		}
		c.do("GET", "/v2/acme/hub.test/lib/base/blobs/"+string(registry.Of(registry.SHA256, layer)), nil).want(t, 200, "")
		if got := c.do("GET", at, nil).want(t, 200, ""); got.header.Get("Warning") != "" || w.hub.count("HEAD manifests") != 1 {
			t.Errorf("what a tag stands for is not asked: %v", got.header)
		}
		if n := w.hub.count("GET manifests"); n != 1 {
			t.Errorf("upstream gives no more manifests, and is asked for %d", n-1)
		}
		if m := w.shown(); m.LimitedUntil.IsZero() || m.Failure != "" {
			t.Errorf("the mirror is %+v", m)
		}
	})
}

// TestMirrorOneBadImage is that image's fault: tags of others are asked for as
// before.
func TestMirrorOneBadImage(t *testing.T) {
	t.Parallel()
	onMirrors(t, registry.Limits{}, func(t *testing.T, w *mirrorWorld) {
		w.hub.client.image("lib/base", "v1", fresh(100))
		c := w.client(w.token)
		at := "/v2/acme/hub.test/lib/base/manifests/v1"
		c.do("GET", at, nil).want(t, 200, "")
		w.hub.breaks(func(rw http.ResponseWriter, r *http.Request) bool {
			switch {
			case strings.Contains(r.URL.Path, "/lib/fails/"):
				rw.WriteHeader(http.StatusInternalServerError)
			case strings.Contains(r.URL.Path, "/lib/long/"):
				rw.Header().Set("Content-Type", ociManifest)
				rw.Write(make([]byte, registry.MaxManifest+1))
			default:
				return false
			}
			return true
		})
		for _, bad := range []string{"fails", "long"} {
			w.pass(2 * time.Minute)
			c.do("GET", "/v2/acme/hub.test/lib/"+bad+"/manifests/v1", nil).want(t, 503, "")
			w.hub.count("HEAD manifests")
			if got := c.do("GET", at, nil).want(t, 200, ""); got.header.Get("Warning") != "" || w.hub.count("HEAD manifests") != 1 {
				t.Errorf("after an image that %s, others are old: %v", bad, got.header)
			}
		}
		if m := w.shown(); m.Failure != "" {
			t.Errorf("the mirror is told to fail: %+v", m)
		}
	})
}

// TestMirrorHangs: who can have what a tag was does not wait for an upstream that does
// not answer.
func TestMirrorHangs(t *testing.T) {
	t.Parallel()
	onMirrors(t, registry.Limits{Patience: time.Second}, func(t *testing.T, w *mirrorWorld) {
		w.hub.client.image("lib/base", "v1", fresh(100))
		c := w.client(w.token)
		at := "/v2/acme/hub.test/lib/base/manifests/v1"
		c.do("GET", at, nil).want(t, 200, "")
		answer := make(chan struct{})
		defer close(answer)
		var givenUp atomic.Bool
		w.hub.breaks(func(_ http.ResponseWriter, r *http.Request) bool {
			select {
			case <-answer:
			case <-r.Context().Done():
				givenUp.Store(true)
			}
			return true
		})
		w.pass(2 * time.Minute)
		if got := c.do("GET", at, nil).want(t, 200, ""); got.header.Get("Warning") == "" {
			t.Errorf("it is not said that it may be old: %v", got.header)
		}
		if givenUp.Load() {
			t.Error("it is answered only once upstream is given up")
		}
		if strings.Contains(w.log.String(), "a moment ago") {
			t.Error("the first one has no patience")
		}
		c.do("GET", at, nil).want(t, 200, "")
		if !strings.Contains(w.log.String(), "could not be asked a moment ago") {
			t.Error("the second one waits too")
		}
	})
}

// TestMirrorLies never gives what has another digest, nor keeps it.
func TestMirrorLies(t *testing.T) {
	t.Parallel()
	onMirrors(t, registry.Limits{}, func(t *testing.T, w *mirrorWorld) {
		small, large := fresh(1000), fresh(20<<20)
		w.hub.client.image("lib/base", "v1", small, large)
		c := w.client(w.token)
		w.hub.breaks(func(rw http.ResponseWriter, r *http.Request) bool {
			for _, content := range [][]byte{small, large} {
				if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, string(registry.Of(registry.SHA256, content))) {
					lie := bytes.Clone(content)
					lie[len(lie)-1]++
					rw.Header().Set("Content-Length", fmt.Sprint(len(lie)))
					rw.Write(lie)
					return true
				}
			}
			return false
		})
		at := func(content []byte) string {
			return "/v2/acme/hub.test/lib/base/blobs/" + string(registry.Of(registry.SHA256, content))
		}
		c.do("GET", at(small), nil).want(t, 503, "")
		if got, err := c.try("GET", at(large), nil); err == nil || len(got.body) >= len(large) {
			t.Errorf("a lie comes whole: %d bytes, %v", len(got.body), err)
		}
		w.hub.breaks(nil)
		for _, content := range [][]byte{small, large} {
			if got := c.do("GET", at(content), nil).want(t, 200, ""); !bytes.Equal(got.body, content) {
				t.Error("what is true does not come after a lie")
			}
		}
		w.hub.breaks(func(rw http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/manifests/") {
				return false
			}
			rw.Header().Set("Content-Type", ociManifest)
			rw.Header().Set("Docker-Content-Digest", string(registry.Of(registry.SHA256, []byte("something else"))))
			rw.Write(manifestOf(small))
			return true
		})
		c.do("GET", "/v2/acme/hub.test/lib/base/manifests/v7", nil).want(t, 503, "")
		c.do("GET", "/v2/acme/hub.test/lib/base/manifests/"+string(registry.Of(registry.SHA256, []byte("x"))), nil).want(t, 503, "")
	})
}

// TestMirrorEvicts has single layers make room, those that nobody used for longest,
// and gets them again when they are wanted.
func TestMirrorEvicts(t *testing.T) {
	t.Parallel()
	onMirrors(t, registry.Limits{Mirror: 10_000_000}, func(t *testing.T, w *mirrorWorld) {
		c := w.client(w.token)
		layers := make([][]byte, 6)
		for i := range layers {
			layers[i] = fresh(2_500_000)
		}
		w.hub.client.image("lib/base", "v1", layers...)
		c.do("GET", "/v2/acme/hub.test/lib/base/manifests/v1", nil).want(t, 200, "")
		get := func(content []byte) int {
			t.Helper()
			w.hub.count("GET blobs")
			c.do("GET", "/v2/acme/hub.test/lib/base/blobs/"+string(registry.Of(registry.SHA256, content)), nil).want(t, 200, "")
			w.pass(2 * time.Second)
			return w.hub.count("GET blobs")
		}
		for _, l := range layers {
			if get(l) != 1 {
				t.Error("a layer does not come from upstream")
			}
		}
		if got := w.used(nimbus.Org{ID: registry.MirrorAccount(w.acme.ID)}); got > 10_000_000 {
			t.Errorf("the mirror has %d bytes", got)
		}
		if get(layers[5]) != 0 || get(layers[0]) != 1 {
			t.Error("the last layer is not here, or the first one is")
		}
		huge := fresh(11_000_000)
		w.hub.client.image("lib/huge", "v1", huge)
		c.do("GET", "/v2/acme/hub.test/lib/huge/blobs/"+string(registry.Of(registry.SHA256, huge)), nil).want(t, 403, "DENIED")
		// Nobody pulls it any more, and the mirror is removed: nothing is left.
		w.must(w.replicas[0].RemoveMirror(t.Context(), w.admin, w.acme.ID, "hub.test"))
		c.do("GET", "/v2/acme/hub.test/lib/base/manifests/v1", nil).want(t, 404, "")
		w.swept()
		w.pass(2 * time.Hour)
		w.swept()
		if n, used := w.stored(), w.used(nimbus.Org{ID: registry.MirrorAccount(w.acme.ID)}); n != 0 || used != 0 {
			t.Errorf("%d contents and %d bytes are left of a mirror that was removed", n, used)
		}
		if names, err := w.keys.Names(t.Context(), w.acme.ID); err != nil || len(names) != 0 {
			t.Errorf("the secrets %v are left of it: %v", names, err)
		}
	})
}

// TestMirrorRoom: what comes has room to its end, or does not begin; and layers make
// room, never manifests.
func TestMirrorRoom(t *testing.T) {
	t.Parallel()
	onMirrors(t, registry.Limits{Mirror: 10_000_000}, func(t *testing.T, w *mirrorWorld) {
		var old, coming [][]byte
		for range 3 {
			old = append(old, fresh(2_500_000))
		}
		for range 2 {
			coming = append(coming, fresh(3_000_000))
		}
		w.hub.client.image("lib/old", "v1", old...)
		w.hub.client.image("lib/new", "v1", coming...)
		goOn := make(chan struct{})
		w.hub.breaks(func(rw http.ResponseWriter, r *http.Request) bool {
			for _, content := range coming {
				if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, string(registry.Of(registry.SHA256, content))) && r.Header.Get("Authorization") != "" {
					rw.Header().Set("Content-Length", fmt.Sprint(len(content)))
					rw.Write(content[:2_000_000])
					http.NewResponseController(rw).Flush()
					<-goOn
					rw.Write(content[2_000_000:])
					return true
				}
			}
			return false
		})
		c := w.client(w.token)
		blob := func(repo string, content []byte) string {
			return "/v2/acme/hub.test/lib/" + repo + "/blobs/" + string(registry.Of(registry.SHA256, content))
		}
		c.do("GET", "/v2/acme/hub.test/lib/old/manifests/v1", nil).want(t, 200, "")
		for _, content := range old {
			c.do("GET", blob("old", content), nil).want(t, 200, "")
			w.pass(time.Second)
		}
		var group sync.WaitGroup
		began := make(chan struct{}, len(coming))
		for _, content := range coming {
			group.Go(func() {
				r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.url+blob("new", content), nil)
				w.must(err)
				r.SetBasicAuth("anybody", c.token)
				answer, err := http.DefaultClient.Do(r)
				if err != nil {
					t.Error(err)
					return
				}
				defer answer.Body.Close()
				began <- struct{}{}
				if got, err := io.ReadAll(answer.Body); err != nil || !bytes.Equal(got, content) {
					t.Errorf("a layer that began to come breaks off after %d bytes: %v", len(got), err)
				}
			})
			<-began
		}
		if got := w.used(nimbus.Org{ID: registry.MirrorAccount(w.acme.ID)}); got > 4_100_000+2*1_100_000 {
			t.Errorf("6 MB come, and %d bytes are here", got)
		}
		huge := fresh(4_500_000)
		w.hub.client.image("lib/huge", "v1", huge)
		refused := c.do("GET", blob("huge", huge), nil).want(t, 403, "DENIED")
		if !strings.Contains(string(refused.body), "--registry-mirror-quota") {
			t.Errorf("it is refused with %s", refused.body)
		}
		close(goOn)
		group.Wait()
		c.do("GET", blob("huge", huge), nil).want(t, 200, "")
		w.hub.breaks(hangUp)
		w.pass(2 * time.Minute)
		c.do("GET", "/v2/acme/hub.test/lib/old/manifests/v1", nil).want(t, 200, "")
	})
}

// TestMirrorRoomForParts: for a layer of which nobody says how large it is room is made
// part by part.
func TestMirrorRoomForParts(t *testing.T) {
	t.Parallel()
	onMirrors(t, registry.Limits{Mirror: 40_000_000}, func(t *testing.T, w *mirrorWorld) {
		c := w.client(w.token)
		get := func(content []byte) {
			t.Helper()
			got := c.do("GET", "/v2/acme/hub.test/lib/base/blobs/"+string(registry.Of(registry.SHA256, content)), nil).want(t, 200, "")
			if !bytes.Equal(got.body, content) {
				t.Errorf("%d other bytes come", len(got.body))
			}
			w.pass(time.Second)
		}
		layers := [][]byte{fresh(12_000_000), fresh(12_000_000), fresh(12_000_000), fresh(30_000_000)}
		w.hub.client.image("lib/base", "v1", layers...)
		for _, l := range layers[:3] {
			get(l)
		}
		w.hub.breaks(func(rw http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, string(registry.Of(registry.SHA256, layers[3]))) || r.Header.Get("Authorization") == "" {
				return false
			}
			http.NewResponseController(rw).Flush()
			rw.Write(layers[3])
			return true
		})
		get(layers[3])
	})
}

// TestMirrorIdle has images go that nobody pulls.
func TestMirrorIdle(t *testing.T) {
	t.Parallel()
	onMirrors(t, registry.Limits{}, func(t *testing.T, w *mirrorWorld) {
		layer := fresh(1000)
		w.hub.client.image("lib/base", "v1", layer)
		c := w.client(w.token)
		c.do("GET", "/v2/acme/hub.test/lib/base/manifests/v1", nil).want(t, 200, "")
		c.do("GET", "/v2/acme/hub.test/lib/base/blobs/"+string(registry.Of(registry.SHA256, layer)), nil).want(t, 200, "")
		w.pass(29 * 24 * time.Hour)
		if done := w.swept(); done.Images+done.Blobs != 0 {
			t.Errorf("%+v goes too early", done)
		}
		w.pass(2 * 24 * time.Hour)
		if done := w.swept(); done.Images != 1 || done.Blobs != 1 {
			t.Errorf("%+v goes after a month", done)
		}
	})
}

// TestMirrorSecret tells nobody the login: no listing, no log, no error, and whom
// the upstream redirects to.
func TestMirrorSecret(t *testing.T) {
	t.Parallel()
	onMirrors(t, registry.Limits{}, func(t *testing.T, w *mirrorWorld) {
		blob := fresh(2000)
		w.hub.client.image("lib/base", "v1", blob)
		other := newHub(t) // somebody else's host
		var told sync.Map
		other.breaks(func(rw http.ResponseWriter, r *http.Request) bool {
			told.Store("authorization", r.Header.Get("Authorization"))
			rw.Write(blob)
			return true
		})
		w.inside = append(w.inside, other.address)
		w.replica()
		w.hub.breaks(func(rw http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") || r.Header.Get("Authorization") == "" {
				return false
			}
			http.Redirect(rw, r, "http://"+other.address+"/signed?by=a-secret-signature", http.StatusTemporaryRedirect)
			return true
		})
		c := w.client(w.token)
		c.url = w.replicas[1].url
		at := "/v2/acme/hub.test/lib/base/blobs/" + string(registry.Of(registry.SHA256, blob))
		c.do("GET", at, nil).want(t, 200, "")
		if sent, _ := told.Load("authorization"); sent != "" {
			t.Errorf("who is redirected to is sent %q", sent)
		}
		other.breaks(hangUp)
		answers := string(c.do("GET", "/v2/acme/hub.test/lib/base/blobs/"+string(registry.Of(registry.SHA256, fresh(1))), nil).want(t, 503, "").body)
		w.hub.breaks(hangUp)
		answers += string(c.do("GET", "/v2/acme/hub.test/lib/base/manifests/other", nil).want(t, 503, "").body)
		all, err := w.replicas[1].Mirrors(t.Context(), w.acme.ID)
		w.must(err)
		answers += fmt.Sprintf("%+v", all) + w.log.String()
		for _, secret := range []string{w.hub.token, "a-secret-signature", "Basic ", "Bearer "} {
			if strings.Contains(answers, secret) {
				t.Errorf("%q is told in %s", secret, answers)
			}
		}
		// Where it leads elsewhere, the password of before does not go with it.
		err = w.replicas[0].SetMirror(t.Context(), w.admin, w.acme.ID, nimbus.ImageMirrorChange{Name: "hub.test", Upstream: "http://" + other.address, Username: "puller"})
		if nimbus.ErrorCode(err) != nimbus.CodeInvalid {
			t.Errorf("another upstream has the password: %v", err)
		}
		w.must(w.replicas[0].SetMirror(t.Context(), w.admin, w.acme.ID, nimbus.ImageMirrorChange{Name: "hub.test", Upstream: "http://" + w.hub.address, Username: "puller", Allow: []string{"*"}}))
		w.hub.breaks(nil)
		c.do("GET", "/v2/acme/hub.test/lib/base/manifests/v1", nil).want(t, 200, "")
	})
}

// TestMirrorElsewhere: what was asked for while a mirror led somewhere else is not
// kept, and what was here of that goes.
func TestMirrorElsewhere(t *testing.T) {
	t.Parallel()
	onMirrors(t, registry.Limits{}, func(t *testing.T, w *mirrorWorld) {
		before := w.hub.client.image("lib/base", "v1", fresh(100))
		w.hub.client.image("lib/base", "v2", fresh(100))
		c := w.client(w.token)
		if got := c.do("GET", "/v2/acme/hub.test/lib/base/manifests/v1", nil).want(t, 200, ""); !bytes.Equal(got.body, before) {
			t.Error("another manifest comes")
		}
		other := newHub(t)
		after := other.client.image("lib/base", "v1", fresh(100))
		w.inside = append(w.inside, other.address)
		w.replica()
		came, goOn := make(chan struct{}), make(chan struct{})
		w.hub.breaks(func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/manifests/v2") && r.Header.Get("Authorization") != "" {
				close(came)
				<-goOn
			}
			return false
		})
		late := make(chan answer, 1)
		go func() {
			a, err := c.try("GET", "/v2/acme/hub.test/lib/base/manifests/v2", nil)
			if err != nil {
				t.Error(err)
			}
			late <- a
		}()
		<-came
		w.must(w.replicas[1].SetMirror(t.Context(), w.admin, w.acme.ID, nimbus.ImageMirrorChange{Name: "hub.test", Upstream: "http://" + other.address,
			Username: "puller", Password: other.token, Allow: []string{"*"}}))
		close(goOn)
		(<-late).want(t, 409, "")
		second := &pusher{t, w.replicas[1].url, w.token}
		if got := second.do("GET", "/v2/acme/hub.test/lib/base/manifests/v1", nil).want(t, 200, ""); !bytes.Equal(got.body, after) {
			t.Error("the manifest of before comes")
		}
		second.do("GET", "/v2/acme/hub.test/lib/base/manifests/v2", nil).want(t, 404, "")
		second.do("GET", "/v2/acme/hub.test/lib/base/manifests/"+string(registry.Of(registry.SHA256, before)), nil).want(t, 404, "")
	})
}

// TestMirrorInside asks nobody at an address of the server's own network whom the
// operator has not named: neither an upstream nor whom that redirects to.
func TestMirrorInside(t *testing.T) {
	t.Parallel()
	w := newMirrorWorld(t, engines["sqlite"](t), registry.Limits{})
	blob := fresh(2000)
	w.hub.client.image("lib/base", "v1", blob)
	other, came := inside(t)
	c := w.client(w.token)
	at := "/v2/acme/hub.test/lib/base/blobs/" + string(registry.Of(registry.SHA256, blob))
	for _, scheme := range []string{"http://", "https://"} {
		w.hub.breaks(func(rw http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
				return false
			}
			http.Redirect(rw, r, scheme+other+"/", http.StatusTemporaryRedirect)
			return true
		})
		c.do("GET", at, nil).want(t, 503, "")
	}
	w.hub.breaks(func(rw http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		http.Redirect(rw, r, "http://"+w.hub.address+r.URL.Path, http.StatusTemporaryRedirect)
		return true
	})
	c.do("GET", at, nil).want(t, 503, "") // for ever
	w.hub.breaks(nil)
	c.do("GET", at, nil).want(t, 200, "")
	for upstream, code := range map[string]nimbus.Code{
		"http://" + other: nimbus.CodeInvalid, "https://user:pass@example.test": nimbus.CodeInvalid, "file:///etc": nimbus.CodeInvalid, "https://" + other: "",
	} {
		err := w.replicas[0].SetMirror(t.Context(), w.admin, w.acme.ID, nimbus.ImageMirrorChange{Name: "other.test", Upstream: upstream, Allow: []string{"*"}})
		if err != nil && nimbus.ErrorCode(err) != code || err == nil && code != "" {
			t.Errorf("%s: %v", upstream, err)
		}
	}
	w.pass(2 * time.Second)
	c.do("GET", "/v2/acme/other.test/lib/base/manifests/v1", nil).want(t, 503, "")
	if n := came.Load(); n != 0 {
		t.Errorf("who is inside was connected to %d times", n)
	}
}

// inside is somebody at an address of this machine, who counts who comes.
func inside(t *testing.T) (address string, came *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	came = new(atomic.Int32)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			came.Add(1)
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-ended
	})
	return l.Addr().String(), came
}
