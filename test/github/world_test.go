// Package github_test plays days of trouble between Nimbus and the double of
// GitHub, on a clock that the test moves: the real scheduler, its books, and the
// real client over HTTP, with hosts and runners that have no processes.
package github_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/bus"
	"github.com/nimbus-ci/nimbus/internal/demand"
	"github.com/nimbus-ci/nimbus/internal/forge"
	"github.com/nimbus-ci/nimbus/internal/forge/githubtest"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// world is GitHub, Nimbus and its hosts, on one clock.
type world struct {
	*githubtest.Server
	t     *testing.T
	seed  uint64
	store *store.Store
	plane *scheduler.Service
	hook  http.Handler

	redelivery *demand.Redelivery
	poller     *demand.Poller
	askedAt    time.Time // when these had their turn

	hosts []*host
	begun time.Time
	now   time.Time // GitHub's and the books' alike
	clock atomic.Int64
	down  atomic.Bool // the control plane is away

	mu    sync.Mutex
	calls map[string]uint64 // by operation: which call it is
	sent  counts            // what became of webhooks
	fate  map[int64]string  // of GitHub's jobs to which something was done
}

type counts struct {
	All     int `json:"all"`
	Dropped int `json:"dropped"`
	Failed  int `json:"failed"`
	Doubled int `json:"doubled"`
	Late    int `json:"late"`
}

// Now implements nimbus.Clock.
func (w *world) Now() time.Time { return time.UnixMicro(w.clock.Load()).UTC() }

// chance is a number below 1 that depends on nothing but the seed and its name.
func (w *world) chance(parts ...any) float64 {
	h := fnv.New64a()
	fmt.Fprint(h, w.seed, parts)
	x := h.Sum64() // mixed, since the last characters move few bits
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	return float64(x>>11) / (1 << 53)
}

// tokens are of no interest here, but that there are no two alike.
type tokens struct{}

func (tokens) MintJob() (token, hash string) { return rand.Text(), rand.Text() }

func newWorld(t *testing.T, dsn string, seed uint64, limits githubtest.Limits) *world {
	t.Helper()
	w := &world{t: t, seed: seed, calls: map[string]uint64{}, fate: map[int64]string{}}
	var err error
	if w.store, err = store.Open(t.Context(), store.Config{DSN: dsn}); err != nil {
		t.Fatal(err)
	}
	w.begun, err = w.store.Now(t.Context())
	w.must(err)
	w.now = w.begun
	w.clock.Store(w.begun.UnixMicro())
	if w.Server, err = githubtest.Start(githubtest.Config{Clock: w, Limits: limits}); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	transport := &http.Transport{MaxIdleConnsPerHost: 8}
	app, err := forge.NewApp(forge.AppConfig{AppID: w.AppID(), PrivateKey: w.PrivateKey(), BaseURL: w.URL(), Transport: transport, Clock: w})
	w.must(err)
	w.plane = scheduler.New(scheduler.Config{}, w.store, bus.NewInProcess(), app, tokens{}, log)
	w.redelivery = &demand.Redelivery{Store: w.store, Log: log,
		Apps: func() map[int64]demand.Sender { return map[int64]demand.Sender{w.AppID(): app} }}
	w.poller = &demand.Poller{GitHub: app, Store: w.store, Jobs: w.plane, Log: log}
	w.hook = forge.NewWebhook(forge.WebhookConfig{
		Secrets: func() [][]byte { return [][]byte{w.WebhookSecret()} }, Process: w.plane.ProcessDelivery, Clock: w,
	})
	hook := httptest.NewServer(w)
	w.SetWebhook(hook.URL)
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		w.Close()
		hook.Close()
		if err := w.store.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// ServeHTTP takes webhooks while the control plane is there.
func (w *world) ServeHTTP(out http.ResponseWriter, r *http.Request) {
	if w.down.Load() {
		out.WriteHeader(http.StatusBadGateway)
		return
	}
	w.hook.ServeHTTP(out, r)
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatalf("seed %d, after %v: %v", w.seed, w.now.Sub(w.begun), err)
	}
}

// step moves the clock, and lets everybody do what is due by then. One thing
// happens after the other.
func (w *world) step(ctx context.Context, by time.Duration) {
	w.t.Helper()
	w.now = w.now.Add(by)
	w.clock.Store(w.now.UnixMicro())
	w.must(w.store.OffsetClock(ctx, time.Until(w.now)))
	w.Sweep()
	w.must(w.Flush(ctx))
	if !w.down.Load() {
		// Its own errors are such as the faults are: it tries again.
		_ = w.plane.Tick(ctx)
		if w.now.Sub(w.askedAt) >= 30*time.Second {
			w.askedAt = w.now
			_ = w.redelivery.Sweep(ctx)
			_ = w.poller.Round(ctx)
		}
	}
	for _, h := range w.hosts {
		h.step(ctx)
	}
	w.must(w.Flush(ctx))
}

// trouble makes webhooks and calls go wrong from now on.
func (w *world) trouble() {
	w.PlanDeliveries(func(d githubtest.Delivery) githubtest.Plan {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.sent.All++
		p := githubtest.Plan{Copies: 1}
		switch c := w.chance("webhook", d.JobID, d.Action); {
		case c < 0.15:
			w.sent.Dropped++
			p.Copies = 0 // GitHub never sends it
		case c < 0.30:
			w.sent.Failed++
			p.Fail = true // it does not get through
		case c < 0.40:
			w.sent.Doubled++
			p.Copies = 2
		case c < 0.60:
			w.sent.Late++
			p.Delay = time.Duration(w.chance("late", d.JobID, d.Action) * float64(10*time.Minute))
		}
		return p
	})
	w.PlanCalls(func(op string) *githubtest.Refusal {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.calls[op]++
		switch c := w.chance("call", op, w.calls[op]); {
		case c < 0.02:
			return &githubtest.Refusal{Status: http.StatusBadGateway}
		case c < 0.04:
			return &githubtest.Refusal{Status: http.StatusBadGateway, Done: true}
		case c < 0.045:
			return &githubtest.Refusal{Status: http.StatusForbidden, Message: "You have exceeded a secondary rate limit",
				Header: http.Header{"Retry-After": {"60"}}}
		}
		return nil
	})
}

func (w *world) host(slots int) {
	w.t.Helper()
	inv := nimbus.Inventory{Arch: "amd64", CPUs: slots, MemoryMiB: slots << 10,
		Executors: []nimbus.ExecutorStatus{{Name: nimbus.ExecutorMicroVM, Available: true}}}
	h, err := w.plane.RegisterHost(w.t.Context(), fmt.Sprintf("host%d", len(w.hosts)), "simulated", inv)
	w.must(err)
	w.hosts = append(w.hosts, &host{w: w, id: h.ID, slots: slots})
}
