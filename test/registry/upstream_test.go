package registry_test

import (
	"cmp"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/registry"
)

// safeLog writes to a test, and remembers.
type safeLog struct {
	mu   sync.Mutex
	to   io.Writer
	text strings.Builder
}

// Write implements io.Writer.
func (l *safeLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(p)
	if strings.Contains(string(p), "level=INFO") {
		return len(p), nil
	}
	return l.to.Write(p)
}

func (l *safeLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// mirrorTally counts what mirrors did.
type mirrorTally struct {
	mu    sync.Mutex
	what  map[string]int
	bytes int64
}

// Mirrored implements registry.MirrorObserver.
func (m *mirrorTally) Mirrored(kind, outcome string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.what == nil {
		m.what = map[string]int{}
	}
	m.what[kind+" "+outcome]++
}

// Fetched implements registry.MirrorObserver.
func (m *mirrorTally) Fetched(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bytes += n
}

func (m *mirrorTally) of(what string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.what[what]
}

// hub is another registry: one of our own, behind what counts and breaks.
type hub struct {
	*world

	client  *pusher
	token   string // of who may pull
	address string

	mu    sync.Mutex
	asked map[string]int
	logs  []string
	// answer answers in place of the registry, where it returns true.
	answer func(w http.ResponseWriter, r *http.Request) bool
}

// newHub starts one with an org "lib".
func newHub(t *testing.T) *hub {
	t.Helper()
	h := &hub{world: newWorld(t, engines["sqlite"](t), folder(t, t.TempDir()), registry.Limits{}), asked: map[string]int{}}
	to, err := url.Parse(h.replicas[0].url)
	h.must(err)
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Host = r.In.Host
	}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h.intervenes(w, r) {
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	h.address = strings.TrimPrefix(server.URL, "http://")
	o := h.org("lib")
	h.client = h.world.client(h.world.token(o, nimbus.RoleDeveloper))
	h.token = h.world.token(o, nimbus.RoleViewer)
	return h
}

func (h *hub) intervenes(w http.ResponseWriter, r *http.Request) bool {
	h.mu.Lock()
	answer := h.answer
	if r.Header.Get("Authorization") != "" { // else it is asked for a login
		for _, kind := range []string{"blobs", "manifests", "tags", "token"} {
			if strings.Contains(r.URL.Path, "/"+kind) {
				h.asked[r.Method+" "+kind]++
			}
		}
	}
	h.logs = append(h.logs, r.Method+" "+r.URL.String())
	h.mu.Unlock()
	return answer != nil && answer(w, r)
}

// breaks has it answer so from now on; nil has it work.
func (h *hub) breaks(answer func(w http.ResponseWriter, r *http.Request) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answer = answer
}

// count is how often it was asked for something since the last time.
func (h *hub) count(what string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.asked[what]
	delete(h.asked, what)
	return n
}

// hangUp is an upstream that is away.
func hangUp(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }

// mirrorWorld is a world whose org acme has a mirror hub.test of a hub.
type mirrorWorld struct {
	*world

	hub   *hub
	acme  nimbus.Org
	admin nimbus.Principal
	token string
}

func newMirrorWorld(t *testing.T, dsn string, limits registry.Limits) *mirrorWorld {
	t.Helper()
	h := newHub(t)
	limits.Patience = cmp.Or(limits.Patience, time.Minute) // longer than an upstream takes here that answers
	w := newWorld(t, dsn, folder(t, t.TempDir()), limits)
	w.inside = []string{h.address}
	w.replicas = nil
	w.replica()
	m := &mirrorWorld{world: w, hub: h, acme: w.org("acme"), admin: nimbus.Principal{Kind: nimbus.PrincipalAdmin, Subject: "admin"}}
	m.token = w.token(m.acme, nimbus.RoleDeveloper)
	m.set(nimbus.ImageMirrorChange{Allow: []string{"lib/*"}})
	return m
}

// set sets the mirror, with a login.
func (m *mirrorWorld) set(c nimbus.ImageMirrorChange) {
	m.t.Helper()
	c.Name, c.Upstream, c.Username, c.Password = "hub.test", "http://"+m.hub.address, "puller", m.hub.token
	m.must(m.replicas[0].SetMirror(m.t.Context(), m.admin, m.acme.ID, c))
}

// onMirrors runs a test on both engines.
func onMirrors(t *testing.T, limits registry.Limits, test func(t *testing.T, w *mirrorWorld)) {
	for name, dsn := range engines {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, newMirrorWorld(t, dsn(t), limits))
		})
	}
}

// shown is the mirror as it is listed.
func (m *mirrorWorld) shown() nimbus.ImageMirror {
	m.t.Helper()
	all, err := m.replicas[0].Mirrors(m.t.Context(), m.acme.ID)
	m.must(err)
	if len(all) != 1 {
		m.t.Fatalf("there are %d mirrors", len(all))
	}
	return all[0]
}
