package registry_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/registry"
)

// dripping is a registry whose blobs come a byte at a time. Each one that is asked
// for is told.
func dripping(t *testing.T, w *mirrorWorld) (h *hub, asked, gone chan string) {
	t.Helper()
	h, asked, gone = newHub(t), make(chan string, 1000), make(chan string, 1000)
	h.breaks(func(rw http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		rw.Header().Set("Content-Length", fmt.Sprint(64<<20))
		rw.Write([]byte("x"))
		http.NewResponseController(rw).Flush()
		asked <- r.URL.Path
		<-r.Context().Done()
		gone <- r.URL.Path
		return true
	})
	w.inside = append(w.inside, h.address)
	return h, asked, gone
}

// TestMirrorsAreFair: the slow upstreams of one org, asked for by clients that hang
// up at once, keep the mirrors of other orgs from nothing; and once a mirror is
// removed or leads somewhere else, nothing comes from where it led.
func TestMirrorsAreFair(t *testing.T) {
	t.Parallel()
	w := newMirrorWorld(t, engines["sqlite"](t), registry.Limits{})
	slow, asked, gone := dripping(t, w)
	w.replica()
	at := w.replicas[1]
	rival := w.org("rival")
	for i := range 4 {
		w.must(at.SetMirror(t.Context(), w.admin, rival.ID, nimbus.ImageMirrorChange{Name: fmt.Sprintf("slow-%d.test", i), Upstream: "http://" + slow.address, Allow: []string{"*"}}))
	}
	greedy := &pusher{t, at.url, w.world.token(rival, nimbus.RoleDeveloper)}
	ctx, hangUp := context.WithCancel(t.Context())
	defer hangUp()
	ended := make(chan struct{}, 64)
	for i := range 64 {
		go func() {
			defer func() { ended <- struct{}{} }()
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s/v2/rival/slow-%d.test/lib/x/blobs/%s", at.url, i%4, registry.Of(registry.SHA256, fresh(10))), nil)
			if err != nil {
				t.Error(err)
				return
			}
			r.SetBasicAuth("anybody", greedy.token)
			if a, err := http.DefaultClient.Do(r); err == nil {
				a.Body.Close()
			}
		}()
	}
	const share = 16
	for range share {
		<-asked
	}
	hangUp()
	for range 64 {
		<-ended
	}
	layer := fresh(2 << 20)
	w.hub.client.image("lib/base", "v1", layer)
	c := &pusher{t, at.url, w.token}
	if got := c.do("GET", "/v2/acme/hub.test/lib/base/blobs/"+string(registry.Of(registry.SHA256, layer)), nil).want(t, 200, ""); !bytes.Equal(got.body, layer) {
		t.Error("another org's layer is something else")
	}
	select {
	case <-asked:
		t.Error("an org has more than its share")
	default:
	}
	w.must(at.RemoveMirror(t.Context(), w.admin, rival.ID, "slow-0.test"))
	w.must(at.RemoveMirror(t.Context(), w.admin, rival.ID, "slow-1.test"))
	w.must(at.SetMirror(t.Context(), w.admin, rival.ID, nimbus.ImageMirrorChange{Name: "slow-2.test", Upstream: "http://" + w.hub.address, Username: "puller", Password: w.hub.token, Allow: []string{"*"}}))
	w.must(at.RemoveMirror(t.Context(), w.admin, rival.ID, "slow-3.test"))
	within(t, "what came of mirrors that are gone", gone, share)
	second := fresh(3 << 20)
	w.hub.client.image("lib/base", "v2", second)
	greedy.do("GET", "/v2/rival/slow-2.test/lib/base/blobs/"+string(registry.Of(registry.SHA256, second)), nil).want(t, 200, "")
}

// TestMirrorQuestionsAreBounded: an org whose upstreams don't answer can't ask for more
// and more manifests and lists of tags, and others can.
func TestMirrorQuestionsAreBounded(t *testing.T) {
	t.Parallel()
	w := newMirrorWorld(t, engines["sqlite"](t), registry.Limits{})
	w.hub.client.image("lib/base", "v1", fresh(100))
	slow := newHub(t)
	asked, over := make(chan string, 1000), make(chan struct{})
	slow.breaks(func(_ http.ResponseWriter, r *http.Request) bool {
		asked <- r.URL.Path
		<-over
		return false
	})
	w.inside = append(w.inside, slow.address)
	at := w.replica()
	rival := w.org("rival")
	for i := range 2 {
		w.must(at.SetMirror(t.Context(), w.admin, rival.ID, nimbus.ImageMirrorChange{Name: fmt.Sprintf("slow-%d.test", i), Upstream: "http://" + slow.address, Allow: []string{"*"}}))
	}
	greedy := &pusher{t, at.url, w.world.token(rival, nimbus.RoleDeveloper)}
	const ofMirror, ofOrg = 24, 32
	var group sync.WaitGroup
	defer group.Wait()
	defer close(over)
	for i := range ofOrg {
		group.Go(func() {
			if _, err := greedy.try("GET", fmt.Sprintf("/v2/rival/slow-%d.test/lib/x/manifests/v%d", i/ofMirror, i), nil); err != nil {
				t.Error(err)
			}
		})
	}
	for range ofOrg {
		<-asked
	}
	for i, why := range []string{"24 manifests, lists of tags or sizes of layers", "as an org may have at once"} {
		got := greedy.do("GET", fmt.Sprintf("/v2/rival/slow-%d.test/lib/x/manifests/more", i), nil).want(t, 429, "TOOMANYREQUESTS")
		if !strings.Contains(string(got.body), why) {
			t.Errorf("it is refused with %s", got.body)
		}
		if got := greedy.do("GET", fmt.Sprintf("/v2/rival/slow-%d.test/lib/x/tags/list", i), nil).want(t, 200, ""); got.header.Get("Warning") == "" {
			t.Errorf("tags that upstream was not asked for are new: %s", got.body)
		}
		greedy.do("HEAD", fmt.Sprintf("/v2/rival/slow-%d.test/lib/x/blobs/%s", i, registry.Of(registry.SHA256, fresh(10))), nil).want(t, 429, "")
	}
	select {
	case path := <-asked:
		t.Errorf("there are enough questions, and %s is asked for", path)
	default:
	}
	c := &pusher{t, at.url, w.token}
	c.do("GET", "/v2/acme/hub.test/lib/base/manifests/v1", nil).want(t, 200, "")
}

// within waits until so many have come, for a time that nothing takes.
func within(t *testing.T, what string, come <-chan string, n int) {
	t.Helper()
	late := time.After(time.Minute)
	for i := range n {
		select {
		case <-come:
		case <-late:
			t.Fatalf("%s: only %d of %d end", what, i, n)
		}
	}
}

// TestMirrorGoesAtOnce: nothing of a mirror that was removed is given, nor kept by
// being asked for, once there is one of its name again; and so where it leads
// elsewhere.
func TestMirrorGoesAtOnce(t *testing.T) {
	t.Parallel()
	onMirrors(t, registry.Limits{}, func(t *testing.T, w *mirrorWorld) {
		layer := fresh(1000)
		w.hub.client.image("lib/base", "v1", layer)
		other := newHub(t)
		w.inside = append(w.inside, other.address)
		w.replica()
		at := w.replicas[1]
		c := &pusher{t, at.url, w.token}
		path := "/v2/acme/hub.test/lib/base/blobs/" + string(registry.Of(registry.SHA256, layer))
		set := func(h *hub) {
			t.Helper()
			w.must(at.SetMirror(t.Context(), w.admin, w.acme.ID, nimbus.ImageMirrorChange{Name: "hub.test", Upstream: "http://" + h.address, Username: "puller", Password: h.token, Allow: []string{"*"}}))
		}
		set(w.hub)
		c.do("GET", path, nil).want(t, 200, "")
		set(other)
		c.do("GET", path, nil).want(t, 404, "")
		set(w.hub)
		c.do("GET", path, nil).want(t, 200, "")
		w.must(at.RemoveMirror(t.Context(), w.admin, w.acme.ID, "hub.test"))
		set(other)
		c.do("GET", path, nil).want(t, 404, "")
		if used := w.used(nimbus.Org{ID: registry.MirrorAccount(w.acme.ID)}); used != 0 {
			t.Errorf("%d bytes are still counted", used)
		}
	})
}

// TestMirrorsAreNoOrdinaryRepositories: rules and removal, which would do nothing, are
// refused; rules of a repository in which nothing is keep no mirror away; and what is
// here is told, also where it is only manifests.
func TestMirrorsAreNoOrdinaryRepositories(t *testing.T) {
	t.Parallel()
	onMirrors(t, registry.Limits{}, func(t *testing.T, w *mirrorWorld) {
		at := w.replicas[0]
		w.hub.client.image("lib/base", "v1", fresh(1000))
		w.client(w.token).do("GET", "/v2/acme/hub.test/lib/base/manifests/v1", nil).want(t, 200, "")
		if m := w.shown(); m.Repos != 1 {
			t.Errorf("a manifest is here, and it has %d repositories", m.Repos)
		}
		refused := map[string]error{
			"rules": at.SetImageRules(t.Context(), w.admin, w.acme.ID, "hub.test/lib/base", nimbus.ImageRules{KeepDays: 1}),
			"rm":    at.Remove(t.Context(), w.admin, w.acme.ID, "hub.test/lib/base", ""),
			"a tag": at.Remove(t.Context(), w.admin, w.acme.ID, "hub.test/lib/base", "v1"),
		}
		for what, err := range refused {
			if nimbus.ErrorCode(err) != nimbus.CodeInvalid || !strings.Contains(err.Error(), "in the mirror hub.test") {
				t.Errorf("%s: %v", what, err)
			}
		}
		w.must(at.SetImageRules(t.Context(), w.admin, w.acme.ID, "own.test/x", nimbus.ImageRules{KeepDays: 1}))
		for upstream, bad := range map[string]bool{"https://own.test/../..": true, "https://own.test/a/./b": true, "https://own.test/a%2f..": true, "https://own.test/a/b/": false} {
			err := at.SetMirror(t.Context(), w.admin, w.acme.ID, nimbus.ImageMirrorChange{Name: "own.test", Upstream: upstream})
			if bad && nimbus.ErrorCode(err) != nimbus.CodeInvalid || !bad && err != nil {
				t.Errorf("%s: %v", upstream, err)
			}
		}
		if repos, _, err := at.Repos(t.Context(), w.acme.ID, nimbus.PageRequest{}); err != nil || len(repos) != 0 {
			t.Errorf("there are %+v, %v", repos, err)
		}
	})
}
