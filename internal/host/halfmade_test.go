package host_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/host"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// halfMaker leaves what an agent leaves that is killed while it makes a sandbox.
type halfMaker struct {
	executor.Executor

	left chan struct{}
	make func(context.Context, executor.Spec) error
}

func (m halfMaker) Create(ctx context.Context, spec executor.Spec) (executor.Sandbox, error) {
	if err := m.make(ctx, spec); err != nil {
		return nil, err
	}
	m.left <- struct{}{}
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestHalfMadeIsMadeAnew: what an agent left of a sandbox that was killed while it
// made it is in nobody's way, and costs the job no attempt.
func TestHalfMadeIsMadeAnew(t *testing.T) {
	t.Parallel()
	testenv.Require(t, "root")
	for name, half := range map[string]func(executor.Executor) func(context.Context, executor.Spec) error{
		"a folder in it": func(executor.Executor) func(context.Context, executor.Spec) error {
			return func(_ context.Context, spec executor.Spec) error {
				return errors.Join(os.Mkdir(filepath.Join(spec.Dir, "work"), 0o700), os.WriteFile(filepath.Join(spec.Dir, "token"), nil, 0o600))
			}
		},
		"all of it": func(e executor.Executor) func(context.Context, executor.Spec) error {
			return func(ctx context.Context, spec executor.Spec) error {
				_, err := e.Create(ctx, spec)
				return err
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, dir := startPlane(t), t.TempDir()
			executors, err := host.Executors(host.Config{Data: dir, Executors: []string{nimbus.ExecutorLocal}, Programs: programsInPath, Log: logger(t)})
			must(t, err)
			m := halfMaker{Executor: executors[0], left: make(chan struct{}, 1), make: half(executors[0])}
			none := fault(func(r *http.Request, next http.RoundTripper) (*http.Response, error) { return next.RoundTrip(r) })
			stop := startFaulty(t, p, dir, none, m)
			j := p.submit(t, "ls; echo made")
			<-m.left
			stop()
			startFaulty(t, p, dir, none)
			j = p.await(t, j.ID, "finished", over)
			if got := p.log(t, j); j.Result != nimbus.ResultSuccess || j.AttemptCount != 1 || got != "made\n" {
				t.Errorf("%s, %+v, %d attempts, log %q", j.Result, j.Reason, j.AttemptCount, got)
			}
			empty(t, dir)
		})
	}
}
