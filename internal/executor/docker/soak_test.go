package docker_test

import (
	"bytes"
	"context"
	"encoding/json"
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
	"syscall"
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

	// making is shared while a container is made: this process is all agents that
	// there ever are, but no agent begins before the last one has ended.
	making sync.RWMutex

	mu    sync.Mutex // held by what restarts
	agent *docker.Executor
	stop  func()
	live  sync.Map // ids of the jobs that there are

	ran, warm, given, adopted, agents, killed, daemons, swept atomic.Int64
}

// soakResult is what a soak prints, in one line.
type soakResult struct {
	Jobs      int   `json:"jobs"`
	Ran       int64 `json:"ran"`
	Warm      int64 `json:"warm"`
	GivenUp   int64 `json:"given_up"`
	Adopted   int64 `json:"adopted"`
	Restarts  int64 `json:"agent_restarts"`
	Killed    int64 `json:"agents_killed"`
	Daemons   int64 `json:"daemon_restarts"`
	Swept     int64 `json:"swept"` // what hygiene had to remove, of agents that were killed
	Leaked    int   `json:"leaked"`
	Before    usage `json:"before"`
	After     usage `json:"after"`
	TookMilli int64 `json:"took_ms"`
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
	s, began := &soak{t: t, cfg: cfg, daemon: d}, time.Now()
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
	s.settle(ctx)
	const slack, slackKiB = 8, 24 << 10
	grows := func(after usage) bool {
		return after.Files > before.Files+slack || after.Goroutines > before.Goroutines+slack || after.ResidentKiB > before.ResidentKiB+slackKiB
	}
	after := now(t)
	for deadline := time.Now().Add(30 * time.Second); grows(after) && time.Now().Before(deadline); after = now(t) {
		time.Sleep(100 * time.Millisecond) // what was closed may still be about to end
	}
	for _, n := range []*atomic.Int64{&s.ran, &s.warm, &s.given, &s.adopted, &s.agents, &s.killed, &s.daemons} {
		if n.Load() == 0 {
			t.Error("not everything was tried")
		}
	}
	if grows(after) {
		t.Errorf("this process grows: from %+v to %+v", before, after)
	}
	left := leftovers(ctx, t, cfg, d)
	for _, what := range left {
		t.Error(what)
	}
	line, err := json.Marshal(soakResult{
		jobs, s.ran.Load(), s.warm.Load(), s.given.Load(), s.adopted.Load(), s.agents.Load(), s.killed.Load(), s.daemons.Load(), s.swept.Load(),
		len(left), before, after, time.Since(began).Milliseconds(),
	})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(string(line))
}

// settle sweeps until no start is waited for that its daemon did not live to see.
func (s *soak) settle(ctx context.Context) {
	for {
		s.sweep(ctx)
		notes, _ := os.ReadDir(filepath.Join(s.cfg.Dir, "containers"))
		if len(notes) == 0 || ctx.Err() != nil {
			return
		}
		time.Sleep(time.Second)
	}
}

// sweep removes what belongs to nobody, as an agent does at its start and each
// minute. It tries for as long as the daemon is away.
func (s *soak) sweep(ctx context.Context) {
	for {
		removed, err := s.now().Sweep(ctx, func() (ids []string) {
			s.live.Range(func(id, _ any) bool { ids = append(ids, id.(string)); return true })
			return ids
		})
		s.swept.Add(int64(len(removed)))
		if err == nil || ctx.Err() != nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// startAgent begins what a process of the agent does beside its jobs.
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
	s.making.Lock()
	defer s.making.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
	s.startAgent(ctx)
	s.agents.Add(1)
}

// restartDaemon ends the daemon while containers run and are removed; by SIGKILL in
// the midst of starts, too. One that is told to end there (20.10) ends by itself
// what it starts, in spite of live-restore: see docs/hosts.md.
func (s *soak) restartDaemon(ctx context.Context) {
	sig := []string{"TERM", "KILL"}[rand.IntN(2)]
	if sig == "TERM" {
		s.making.Lock()
		defer s.making.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if sig == "TERM" { // some are made beside the jobs
		s.stop()
		defer s.startAgent(ctx)
	}
	if err := s.daemon.Restart(sig); err != nil {
		s.t.Error(err)
	}
	if err := s.daemon.Await(); err != nil {
		s.t.Error(err)
	}
	s.daemons.Add(1)
}

// otherAgent has another process of the agent make a sandbox, and ends that
// process: as soon as it is done, when ours takes the sandbox over, or at any
// moment before.
func (s *soak) otherAgent(ctx context.Context, sp executor.Spec, i int) (box executor.Sandbox, ok bool) {
	settings := s.cfg
	settings.Log = nil
	s.making.RLock()
	defer s.making.RUnlock()
	other := executortest.StartAgent(ctx, s.t, settings, sp)
	sig := []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL}[rand.IntN(2)]
	s.killed.Add(1)
	if rand.IntN(2) == 0 {
		time.Sleep(time.Duration(rand.IntN(600)) * time.Millisecond)
		other.End(sig)
		s.sweepUp(ctx, sp)
		return nil, false
	}
	why := other.Made()
	other.End(sig)
	if why == "" {
		box, err := s.now().Adopt(ctx, sp.ID, sp.Dir)
		if err == nil {
			return box, true
		}
		s.t.Errorf("job %d: %v", i, err)
	}
	s.sweepUp(ctx, sp) // the daemon was away
	return nil, false
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
		s.sweep(ctx)
	case 8:
		defer s.restartDaemon(ctx)
	}
	sp := s.spec()
	defer s.forget(sp)
	if i%troubles == 7 {
		if box, ok := s.otherAgent(ctx, sp, i); ok {
			s.run(ctx, box, i)
			s.destroy(ctx, box)
			s.adopted.Add(1)
		}
		s.forget(sp)
		s.sweep(ctx)
		return
	}
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
		s.run(ctx, box, i)
	}
	s.destroy(ctx, box)
}

// run has a sandbox do its job: a test of its own, which keeps nothing.
func (s *soak) run(ctx context.Context, box executor.Sandbox, i int) {
	word := fmt.Sprintf("job %d", i)
	ok := s.t.Run(word, func(t *testing.T) {
		if out, exit := executortest.Do(ctx, t, box, "echo "+word+" > file && cat file"); out != word+"\n" || exit.GetCode() != 0 {
			t.Errorf("%q, %v", out, exit)
		}
	})
	if !ok {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		exit, err := box.Wait(ctx)
		s.t.Errorf("job %d in %s, %s: its sandbox' end: %+v, %v", i, box.ID(), box.(executor.Dated).Origin(), exit, err)
	}
	s.ran.Add(1)
}

// spec is a job that there is from now on, until it is forgotten.
func (s *soak) spec() executor.Spec {
	sp := spec(s.t)
	s.live.Store(sp.ID, true)
	return sp
}

func (s *soak) forget(sp executor.Spec) {
	s.live.Delete(sp.ID)
	os.RemoveAll(sp.Dir)
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
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		box, err := s.now().Adopt(ctx, sp.ID, sp.Dir)
		if err == nil {
			err = box.Destroy(context.WithoutCancel(ctx))
		}
		if err == nil || nimbus.ErrorCode(err) == nimbus.CodeNotFound {
			break
		}
		if ctx.Err() != nil {
			s.t.Errorf("sweep up %s: %v", sp.ID, err)
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
	sp := s.spec()
	defer s.forget(sp)
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
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := box.Destroy(context.WithoutCancel(ctx)) // each call of it has its bound
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			s.t.Errorf("destroy %s: %v", box.ID(), err)
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// usage is what this process takes.
type usage struct {
	Files       int `json:"files"`
	Goroutines  int `json:"goroutines"`
	ResidentKiB int `json:"resident_kib"`
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
	return usage{Files: len(files), Goroutines: runtime.NumGoroutine(), ResidentKiB: kib}
}

// leftovers looks for all that a container has: in its daemon, and on the host.
func leftovers(ctx context.Context, t *testing.T, cfg docker.Config, d *testenv.DockerDaemon) (left []string) {
	t.Helper()
	found := func(format string, args ...any) { left = append(left, fmt.Sprintf(format, args...)) }
	if err := d.Await(); err != nil {
		t.Fatal(err)
	}
	if removed, err := create(t, cfg).Sweep(ctx, func() []string { return nil }); err != nil || len(removed) > 0 {
		found("the sweep found %v, %v", removed, err)
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
			found("left in the daemon: %s", &said)
		}
	}
	slots, err := netslot.New(netslot.Config{Owner: cfg.Owner + "d"}).List()
	if err != nil || len(slots) > 0 {
		found("network slots: %v, %v", slots, err)
	}
	// A shim leaves its exit, or the daemon hears of it, before it ends.
	host := onHost(t, cfg, d)
	for deadline := time.Now().Add(30 * time.Second); len(host) > 0 && time.Now().Before(deadline); host = onHost(t, cfg, d) {
		time.Sleep(20 * time.Millisecond)
	}
	left = append(left, host...)
	for _, dir := range []string{"waiting", "claims", "mounts", "containers"} {
		if entries, err := os.ReadDir(filepath.Join(cfg.Dir, dir)); err != nil && !errors.Is(err, os.ErrNotExist) || len(entries) > 0 {
			found("%s: %v, %v", dir, entries, err)
		}
	}
	return left
}

// onHost is what the kernel has of containers: groups, mounts, devices and processes.
func onHost(t *testing.T, cfg docker.Config, d *testenv.DockerDaemon) (left []string) {
	t.Helper()
	folder := filepath.Dir(d.Socket)
	if groups := cgroups(); len(groups) > 0 {
		left = append(left, fmt.Sprintf("cgroups: %v", groups))
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
					left = append(left, fmt.Sprintf("left behind: %s: %q", path, raw))
				}
			}
		}
	}
	return left
}

func checkNothingIsLeft(ctx context.Context, t *testing.T, cfg docker.Config, d *testenv.DockerDaemon) {
	t.Helper()
	for _, what := range leftovers(ctx, t, cfg, d) {
		t.Error(what)
	}
}
