package telemetry_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/bus"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store"
	"github.com/nimbus-ci/nimbus/internal/telemetry"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// world is a real scheduler on real books, and what hears of both.
type world struct {
	*scheduler.Service
	t       *testing.T
	store   *store.Store
	metrics *telemetry.Metrics
	log     *slog.Logger
	host    nimbus.Host
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, metrics: telemetry.NewMetrics("test"), log: slog.New(slog.DiscardHandler)}
	var err error
	w.store, err = store.Open(t.Context(), store.Config{DSN: "sqlite:" + filepath.Join(t.TempDir(), "nimbus.db"), Observer: w.metrics})
	w.must(err)
	t.Cleanup(func() {
		if err := w.store.Close(); err != nil {
			t.Error(err)
		}
	})
	w.Service = scheduler.New(scheduler.Config{Observer: w.metrics}, w.store, bus.NewInProcess(), nil,
		identity.New(w.store, nimbus.SystemClock{}), w.log)
	w.metrics.ReadBooks(w.store, w.log)
	w.host, err = w.RegisterHost(t.Context(), "a-hosts-name", "v1", nimbus.Inventory{Arch: "amd64", CPUs: 64, MemoryMiB: 64 << 10,
		Executors: []nimbus.ExecutorStatus{{Name: nimbus.ExecutorLocal, Available: true}}})
	w.must(err)
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// submit admits a job of cpus.
func (w *world) submit(cpus int) nimbus.Job {
	w.t.Helper()
	j, err := w.Submit(w.t.Context(), nimbus.Principal{Kind: nimbus.PrincipalAdmin, OrgID: nimbus.DefaultOrgID, Subject: "admin"}, scheduler.Submission{
		Name: "a-jobs-name", Class: nimbus.Class{Executor: nimbus.ExecutorLocal, Image: "an-image", CPUs: cpus},
		Spec: nimbus.Spec{Command: []string{"true"}}, Metadata: map[string]string{"key": "a-value"},
	})
	w.must(err)
	return j
}

// take accepts the next job.
func (w *world) take() nimbus.Lease {
	w.t.Helper()
	ctx := w.t.Context()
	got, err := w.Poll(ctx, w.host.ID, nimbus.Capacity{CPUs: 64, MemoryMiB: 64 << 10, Sandboxes: 1}, scheduler.MaxPollWait)
	w.must(err)
	if len(got.Offers) == 0 {
		w.t.Fatal("nothing was offered")
	}
	_, err = w.Accept(ctx, w.host.ID, got.Offers[0].Lease)
	w.must(err)
	return got.Offers[0].Lease
}

// end runs a job that was taken to its end.
func (w *world) end(l nimbus.Lease) {
	w.t.Helper()
	for range 2 { // a repeated report counts once
		w.must(w.ReportPhase(w.t.Context(), w.host.ID, l, nimbus.PhaseSandboxReady, nimbus.Start{Origin: nimbus.OriginWarm, Took: 200 * time.Millisecond}))
	}
	for _, p := range []nimbus.Phase{nimbus.PhaseStarted, nimbus.PhaseFirstOutput} {
		w.must(w.ReportPhase(w.t.Context(), w.host.ID, l, p, nimbus.Start{}))
	}
	used := nimbus.UsageTotals{CPUTime: 3 * time.Second}
	for range 2 { // counted once, too
		w.must(w.Finish(w.t.Context(), w.host.ID, l, nimbus.Outcome{Result: nimbus.ResultSuccess, Usage: nimbus.Usage{Sandbox: used}}))
	}
}

// sample is what a metric tells: the sum over all its series whose labels have
// all of the values.
func (w *world) sample(name string, values ...string) (sum float64) {
	w.t.Helper()
	families, err := w.metrics.Gatherer().Gather()
	w.must(err)
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
	series:
		for _, m := range f.GetMetric() {
			var labels strings.Builder
			for _, l := range m.GetLabel() {
				labels.WriteString(" " + l.GetValue() + " ")
			}
			for _, v := range values {
				if !strings.Contains(labels.String(), " "+v+" ") {
					continue series
				}
			}
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

// run has the sweeps of the scheduler work until the test ends.
func (w *world) run() {
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- w.Run(ctx, func() {}) }()
	w.t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			w.t.Error(err)
		}
	})
}

// await waits until something is so.
func (w *world) await(what string, is func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("not in time: %s", what)
		}
	}
}
