package docker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/docker"
	"github.com/nimbus-ci/nimbus/internal/executor/executortest"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// jobsVariable is how many jobs TestNothingIsLeft runs; make soak-docker has it
// run 500.
const jobsVariable = "NIMBUS_SOAK_JOBS"

// soak is a host that has trouble.
type soak struct {
	t      *testing.T
	cfg    docker.Config
	daemon *testenv.DockerDaemon

	making sync.RWMutex // shared while a container is made

	mu    sync.Mutex // held by what restarts
	agent *docker.Executor
	stop  func()

	ran, warm, given, adopted, agents, daemons atomic.Int64
}

// TestNothingIsLeft runs jobs, several at a time, while some are given up, the
// agent restarts, and the daemon does; and looks for what they leave: on the
// host, in the daemon, and in this process, which stands for the agent.
func TestNothingIsLeft(t *testing.T) {
	jobs := 50
	if n, err := strconv.Atoi(os.Getenv(jobsVariable)); err == nil {
		jobs = n
	}
	cfg, d := config(t)
	cfg.Warm = docker.WarmConfig{Containers: 2, MemoryMiB: 512}
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(jobs)*10*time.Second+5*patience)
	defer cancel()
	s := &soak{t: t, cfg: cfg, daemon: d}
	s.startAgent(ctx)
	var before usage
	const together = 3
	for _, part := range []struct{ from, to int }{{0, jobs / 4}, {jobs / 4, jobs}} {
		var group sync.WaitGroup
		for lane := range together {
			group.Go(func() {
				for i := part.from + lane; i < part.to; i += together {
					s.job(ctx, i)
				}
			})
		}
		group.Wait()
		if part.from == 0 {
			before = now(t)
		}
	}
	s.stop()
	after := now(t)
	t.Logf("%d jobs ran, %d of them in a container that waited; %d were given up, %d adopted; %d restarts of the agent, %d of the daemon; before %v, after %v",
		s.ran.Load(), s.warm.Load(), s.given.Load(), s.adopted.Load(), s.agents.Load(), s.daemons.Load(), before, after)
	if s.ran.Load() == 0 || s.warm.Load() == 0 || s.given.Load() == 0 || s.adopted.Load() == 0 || s.agents.Load() == 0 || s.daemons.Load() == 0 {
		t.Error("not everything was tried")
	}
	const slack, slackKiB = 8, 24 << 10
	if after.files > before.files+slack || after.goroutines > before.goroutines+slack || after.residentKiB > before.residentKiB+slackKiB {
		t.Errorf("this process grows: from %v to %v", before, after)
	}
	checkNothingIsLeft(ctx, t, cfg, d)
}

// startAgent begins what a process of the agent does beside its jobs. One that
// begins anew sweeps, as it would.
func (s *soak) startAgent(ctx context.Context) {
	e := create(s.t, s.cfg)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		free := func() nimbus.Capacity { return nimbus.Capacity{CPUs: 8, MemoryMiB: 8 << 10, Sandboxes: 8} }
		if err := e.KeepWarm(ctx, free, func() {}); err != nil {
			s.t.Error(err)
		}
	}()
	s.agent, s.stop = e, func() { cancel(); <-done }
}

// restartAgent ends one process of the agent and begins the next.
func (s *soak) restartAgent(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
	s.startAgent(ctx)
	s.agents.Add(1)
}

// restartDaemon ends the daemon while jobs run and end, but not in the midst of
// the start of a container: one that is killed there (20.10) may forget what its
// containerd has begun. See docs/hosts.md.
func (s *soak) restartDaemon(ctx context.Context) {
	s.making.Lock()
	defer s.making.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop() // it makes some, too
	if err := s.daemon.Restart([]string{"TERM", "KILL"}[rand.IntN(2)]); err != nil {
		s.t.Error(err)
	}
	time.Sleep(500 * time.Millisecond) // it dies first
	if err := s.daemon.Await(); err != nil {
		s.t.Error(err)
	}
	s.startAgent(ctx)
	s.daemons.Add(1)
}

func (s *soak) now() *docker.Executor {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.agent
}

// job runs one, with the trouble that its number has in store.
func (s *soak) job(ctx context.Context, i int) {
	const troubles = 10
	switch i % troubles {
	case 3:
		s.giveUp(ctx)
		return
	case 5:
		s.restartAgent(ctx)
	case 8:
		defer s.restartDaemon(ctx)
	}
	sp := spec(s.t)
	defer os.RemoveAll(sp.Dir)
	box, err := s.make(ctx, sp)
	if err != nil {
		s.t.Errorf("job %d: %v", i, err)
		return
	}
	if box.(executor.Dated).Origin() == nimbus.OriginWarm {
		s.warm.Add(1)
	}
	switch i % troubles {
	case 4: // cancelled while it runs
		s.given.Add(1)
	case 6:
		if box, err = s.now().Adopt(ctx, sp.ID, sp.Dir); err != nil {
			s.t.Errorf("job %d: %v", i, err)
			return
		}
		s.adopted.Add(1)
		fallthrough
	default:
		word := fmt.Sprintf("job %d", i)
		if out, exit := executortest.Do(ctx, s.t, box, "echo "+word+" > file && cat file"); out != word+"\n" || exit.GetCode() != 0 {
			s.t.Errorf("%q, %v", out, exit)
		}
		s.ran.Add(1)
	}
	s.destroy(ctx, box)
}

// make tries for as long as the daemon is away.
func (s *soak) make(ctx context.Context, sp executor.Spec) (executor.Sandbox, error) {
	for {
		s.making.RLock()
		box, err := s.now().Create(ctx, sp)
		s.making.RUnlock()
		if err == nil || ctx.Err() != nil {
			return box, err
		}
		// An attempt that failed is not tried again: its job gets another.
		s.sweepUp(ctx, sp)
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, errors.Join(err, ctx.Err())
		}
	}
}

// sweepUp empties a sandbox' folder as the agent does.
func (s *soak) sweepUp(ctx context.Context, sp executor.Spec) {
	for {
		box, err := s.now().Adopt(ctx, sp.ID, sp.Dir)
		if err == nil {
			err = box.Destroy(ctx)
		}
		if err == nil || nimbus.ErrorCode(err) == nimbus.CodeNotFound || ctx.Err() != nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	entries, _ := os.ReadDir(sp.Dir)
	for _, e := range entries {
		os.RemoveAll(filepath.Join(sp.Dir, e.Name()))
	}
}

// giveUp cancels a creation at any moment of it.
func (s *soak) giveUp(ctx context.Context) {
	sp := spec(s.t)
	defer os.RemoveAll(sp.Dir)
	sp.Class.CPUs = 2 // none of these waits
	making, cancel := context.WithTimeout(ctx, time.Duration(rand.IntN(800))*time.Millisecond)
	s.making.RLock()
	box, err := s.now().Create(making, sp)
	s.making.RUnlock()
	cancel()
	s.given.Add(1)
	if err == nil {
		s.destroy(ctx, box)
		return
	}
	s.sweepUp(ctx, sp)
}

// destroy tries until it is done, as the agent does.
func (s *soak) destroy(ctx context.Context, box executor.Sandbox) {
	for {
		err := box.Destroy(ctx)
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			s.t.Error(err)
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// usage is what this process takes.
type usage struct{ files, goroutines, residentKiB int }

func (u usage) String() string {
	return fmt.Sprintf("%d files, %d goroutines, %d KiB", u.files, u.goroutines, u.residentKiB)
}

func now(t *testing.T) usage {
	t.Helper()
	debug.FreeOSMemory()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(raw), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return usage{len(files), runtime.NumGoroutine(), kib}
}

// checkNothingIsLeft looks for all that a container has: in its daemon, and on
// the host.
func checkNothingIsLeft(ctx context.Context, t *testing.T, cfg docker.Config, d *testenv.DockerDaemon) {
	t.Helper()
	if err := d.Await(); err != nil {
		t.Fatal(err)
	}
	if removed, err := create(t, cfg).Sweep(ctx, func() []string { return nil }); err != nil || len(removed) > 0 {
		t.Errorf("the sweep found %v, %v", removed, err)
	}
	for _, path := range []string{"/containers/json?all=1", "/volumes"} {
		answer, err := testenv.DockerClient(d.Socket).Get("http://docker" + path)
		if err != nil || answer.StatusCode != http.StatusOK {
			t.Fatal(err, answer)
		}
		var said bytes.Buffer
		said.ReadFrom(answer.Body)
		answer.Body.Close()
		if strings.Contains(said.String(), "nimbus") {
			t.Errorf("left in the daemon: %s", &said)
		}
	}
	slots, err := netslot.New(netslot.Config{Owner: cfg.Owner + "d"}).List()
	if err != nil || len(slots) > 0 {
		t.Errorf("network slots: %v, %v", slots, err)
	}
	folder := filepath.Dir(d.Socket)
	if left := cgroups(); len(left) > 0 {
		t.Errorf("cgroups: %v", left)
	}
	sandboxes := fmt.Sprintf("nimbus-sandbox-%d-", os.Getpid())
	for pattern, ours := range map[string][]string{
		"/proc/self/mounts":                  {folder + "/data/volumes", folder + "/data/overlay2/", cfg.Dir},
		"/sys/block/loop*/loop/backing_file": {cfg.Dir, sandboxes},
		"/proc/[0-9]*/cmdline":               {cfg.Shim + "\x00", "-address\x00" + folder},
	} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			raw, err := os.ReadFile(path)
			for _, mark := range ours {
				if err == nil && bytes.Contains(raw, []byte(mark)) {
					t.Errorf("left behind: %s: %q", path, raw)
				}
			}
		}
	}
	for _, dir := range []string{"waiting", "claims", "mounts"} {
		if left, err := os.ReadDir(filepath.Join(cfg.Dir, dir)); err != nil && !errors.Is(err, os.ErrNotExist) || len(left) > 0 {
			t.Errorf("%s: %v, %v", dir, left, err)
		}
	}
}
