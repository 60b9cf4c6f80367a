package docker_test

import (
	"context"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/docker"
	"github.com/nimbus-ci/nimbus/internal/executor/executortest"
)

func awaitWarm(ctx context.Context, t *testing.T, e *docker.Executor, n int) {
	t.Helper()
	for len(e.Warm()) != n {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("%d containers wait, not %d", len(e.Warm()), n)
		}
	}
}

// TestWarm has jobs find a container that waited: it is as any other, can be
// adopted, and is gone with its job.
func TestWarm(t *testing.T) {
	cfg, d := config(t)
	cfg.Warm = docker.WarmConfig{Containers: 1, MemoryMiB: 512}
	e := create(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	keeping, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		free := func() nimbus.Capacity { return nimbus.Capacity{CPUs: 8, MemoryMiB: 8 << 10, Sandboxes: 8} }
		if err := e.KeepWarm(keeping, free, func() {}); err != nil {
			t.Error(err)
		}
	}()
	first, err := e.Create(ctx, spec(t)) // tells what jobs there are
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Destroy(ctx); err != nil {
		t.Fatal(err)
	}
	awaitWarm(ctx, t, e, 1)
	if removed, err := e.Sweep(ctx, func() []string { return nil }); err != nil || len(removed) > 0 {
		t.Errorf("one that waits was swept: %v, %v", removed, err)
	}

	sp := spec(t)
	began := time.Now()
	s, err := e.Create(ctx, sp)
	if err != nil {
		t.Fatal(err)
	}
	t.Log("claimed within", time.Since(began))
	if d, ok := s.(executor.Dated); !ok || d.Origin() != nimbus.OriginWarm || s.ID() != sp.ID {
		t.Errorf("it is another: %v", s)
	}
	stop()
	<-done
	s, err = create(t, cfg).Adopt(ctx, sp.ID, sp.Dir) // by the next agent
	if err != nil {
		t.Fatal(err)
	}
	out, exit := executortest.Do(ctx, t, s, "ls -A; echo made > file; cat file; cat /etc/hosts")
	if want := "made\n127.0.0.1 localhost\n172.16.0.1 " + docker.GatewayName + "\n"; out != want || exit.GetCode() != 0 {
		t.Errorf("got %q, %v", out, exit)
	}
	if removed, err := create(t, cfg).Sweep(ctx, func() []string { return []string{sp.ID} }); err != nil || len(removed) > 0 {
		t.Errorf("a job's was swept: %v, %v", removed, err)
	}
	if err := s.Destroy(ctx); err != nil {
		t.Fatal(err)
	}
	checkNothingIsLeft(ctx, t, cfg, d)
}

// TestDaemonRestarts ends the daemon while a job runs, which goes on, and can be
// killed while there is none.
func TestDaemonRestarts(t *testing.T) {
	cfg, d := config(t)
	e := create(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	for _, signal := range []string{"TERM", "KILL"} {
		s := sandbox(ctx, t, e, spec(t))
		job := executortest.Begin(ctx, t, s, "echo begun; sleep 3; echo done")
		job.Await(ctx, t, "begun\n")
		if err := d.Restart(signal); err != nil {
			t.Fatal(err)
		}
		job.Await(ctx, t, "done\n")
		if err := s.Kill(ctx); err != nil {
			t.Fatal(err)
		}
		if exit, err := s.Wait(ctx); err != nil || exit.Cause != executor.ExitKilled {
			t.Errorf("exit %+v, %v", exit, err)
		}
		if err := d.Await(); err != nil {
			t.Fatal(err)
		}
		if err := s.Destroy(ctx); err != nil {
			t.Error(err)
		}
	}
	checkNothingIsLeft(ctx, t, cfg, d)
}
