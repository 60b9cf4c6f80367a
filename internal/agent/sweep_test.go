package agent

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/api/gen/nimbus/v1/nimbusv1connect"
	"github.com/nimbus-ci/nimbus/internal/executor"
)

// TestFoldersOfNobody go at the second look, so that one that is about to be
// somebody's stays.
func TestFoldersOfNobody(t *testing.T) {
	t.Parallel()
	a := &Agent{cfg: Config{Data: t.TempDir()}, log: slog.New(slog.DiscardHandler), sealer: &sealer{key: make([]byte, keyBytes)}, attempts: map[string]*attempt{}}
	for _, name := range []string{"att_known", "att_new", "att_orphan"} {
		if err := os.MkdirAll(filepath.Join(a.attemptsDir(), name, "sandbox"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	know := func(id string) {
		a.attempts[id] = &attempt{assign: nimbus.Assignment{Lease: nimbus.Lease{AttemptID: id}}}
	}
	know("att_known")
	orphans := a.sweepFolders(t.Context(), nil)
	if !slices.Equal(orphans, []string{"att_new", "att_orphan"}) {
		t.Errorf("seem to be nobody's: %v", orphans)
	}
	know("att_new")
	if orphans = a.sweepFolders(t.Context(), orphans); len(orphans) > 0 {
		t.Errorf("still: %v", orphans)
	}
	var left []string
	entries, err := os.ReadDir(a.attemptsDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if !slices.Equal(left, []string{"att_known", "att_new"}) {
		t.Errorf("left: %v", left)
	}
}

// flighty is an executor that comes and goes.
type flighty struct {
	named

	there atomic.Bool
}

func (f *flighty) Status(context.Context) nimbus.ExecutorStatus {
	return nimbus.ExecutorStatus{Name: f.name, Available: f.there.Load()}
}

func (*flighty) Sweep(context.Context, func() []string) ([]string, error) { return nil, nil }

// hearing is a control plane that hears what hosts have.
type hearing struct {
	nimbusv1connect.AgentServiceClient

	heard chan bool
}

func (h hearing) Hello(_ context.Context, r *connect.Request[nimbusv1.HelloRequest]) (*connect.Response[nimbusv1.HelloResponse], error) {
	h.heard <- r.Msg.GetInventory().GetExecutors()[0].GetAvailable()
	return connect.NewResponse(&nimbusv1.HelloResponse{}), nil
}

// TestBackSoon: that an executor is back is told within seconds, not with the next
// sweep: its jobs wait.
func TestBackSoon(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		e := &flighty{named: named{name: nimbus.ExecutorDocker}}
		e.there.Store(true)
		control := hearing{heard: make(chan bool)}
		a := &Agent{cfg: Config{Data: data, Executors: []executor.Executor{e}}, log: slog.New(slog.DiscardHandler), control: control, equipped: make(chan struct{}, 1), sealer: &sealer{key: make([]byte, keyBytes), path: filepath.Join(t.TempDir(), "keys", "k")}}
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan error)
		go func() { over <- a.runSweepLoop(ctx) }()
		synctest.Wait()
		e.there.Store(false)
		if <-control.heard {
			t.Error("it is told to be there")
		}
		time.Sleep(time.Second)
		e.there.Store(true)
		back := time.Now()
		if there := <-control.heard; !there || time.Since(back) > awayInterval {
			t.Errorf("told after %v: %v", time.Since(back), there)
		}
		cancel()
		if err := <-over; err != nil {
			t.Error(err)
		}
	})
}
