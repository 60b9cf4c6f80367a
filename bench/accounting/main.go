// Command accounting measures what it costs to know what a job uses: a job that
// only burns CPU, on an agent that measures its sandbox each second and tells the
// server, and on one whose sandboxes can't be measured, in turns; in sandboxes of
// the executor local, and in containers.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/bench/process"
	"github.com/nimbus-ci/nimbus/bench/replica"
	"github.com/nimbus-ci/nimbus/bench/report"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/agent"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/docker"
	"github.com/nimbus-ci/nimbus/internal/executor/local"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/library"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// The hosts, each with a word that its jobs need.
const (
	measured = "measured"
	bare     = "bare"
)

// size is how much is measured.
type size struct {
	pairs      int
	iterations int // of a job's loop
}

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "bench-accounting:", err)
		os.Exit(1)
	}
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench-accounting: "+format+"\n", args...)
}

func run(ctx context.Context) (err error) {
	n := size{pairs: 8, iterations: 20_000_000}
	if os.Getenv("QUICK") != "" {
		n = size{pairs: 3, iterations: 4_000_000}
	}
	dir, err := os.MkdirTemp("", "nimbus-bench-")
	if err != nil {
		return fmt.Errorf("make work folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	plane, err := replica.Start(ctx, dir, "")
	if err != nil {
		return err
	}
	defer plane.Stop()
	bin, err := filepath.Abs("bin")
	if err != nil {
		return fmt.Errorf("find the programs: %w", err)
	}
	r := report.New("accounting")
	b := &bench{plane: plane, iterations: n.iterations, executor: nimbus.ExecutorLocal, memoryMiB: 256}
	err = b.measure(ctx, r, n.pairs, dir, func(word string) (executor.Executor, error) { return localSandboxes(bin, word), nil })
	if err != nil {
		return err
	}
	if err := b.containers(ctx, r, n.pairs, bin, dir); err != nil {
		return err
	}
	return r.Write(os.Stdout)
}

func localSandboxes(bin, word string) executor.Executor {
	return local.New(local.Config{Shim: filepath.Join(bin, "nimbus-shim"), Guest: filepath.Join(bin, "nimbus-guest"), Owner: owner(word)})
}

// owner tells the sandboxes of the hosts apart.
func owner(word string) string { return fmt.Sprintf("b%d%s", os.Getpid(), word[:1]) }

// containers measures those of a daemon of its own.
func (b *bench) containers(ctx context.Context, r *report.Report, pairs int, bin, dir string) (err error) {
	if os.Geteuid() != 0 {
		progress("no containers: a daemon of one's own takes root")
		return nil
	}
	d, err := testenv.StartDocker()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	const name, tag = "nimbus.test/tools", "1"
	if err := d.Image(name, tag); err != nil {
		return err
	}
	c := &bench{plane: b.plane, iterations: b.iterations, executor: nimbus.ExecutorDocker, memoryMiB: b.memoryMiB, prefix: "docker."}
	return c.measure(ctx, r, pairs, filepath.Join(dir, "containers"), func(word string) (executor.Executor, error) {
		return docker.New(docker.Config{
			Shim: filepath.Join(bin, "nimbus-shim"), Guest: filepath.Join(bin, "nimbus-guest"), Host: "unix://" + d.Socket,
			Owner: owner(word), Dir: filepath.Join(dir, "docker-"+word), Built: image.Store{Dir: filepath.Join(dir, "none")},
			Catalog: library.Catalog{Aliases: map[string]string{nimbus.DefaultImage: name + ":" + tag}}, Log: slog.New(slog.DiscardHandler),
		})
	})
}

// measure runs pairs of jobs on two hosts of their own.
func (b *bench) measure(ctx context.Context, r *report.Report, pairs int, dir string, sandboxes func(word string) (executor.Executor, error)) error {
	stop, err := startHosts(ctx, b, dir, sandboxes)
	if err != nil {
		return err
	}
	defer stop()
	return b.pairs(ctx, r, pairs)
}

// startHosts starts both agents in this process; stop ends them.
func startHosts(ctx context.Context, b *bench, dir string, sandboxes func(word string) (executor.Executor, error)) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	stop = func() {
		cancel()
		running.Wait()
	}
	for _, word := range []string{measured, bare} {
		e, err := sandboxes(word)
		var a *agent.Agent
		if err == nil {
			a, err = newHost(ctx, b, filepath.Join(dir, word), word, e)
		}
		if err != nil {
			stop()
			return nil, err
		}
		ready, ended := make(chan struct{}), make(chan error, 1)
		running.Go(func() { ended <- a.Run(ctx, func() { close(ready) }) })
		select {
		case <-ready:
		case err := <-ended:
			stop()
			return nil, errors.Join(fmt.Errorf("the host %s ended", word), err)
		}
	}
	return stop, nil
}

func newHost(ctx context.Context, b *bench, data, word string, e executor.Executor) (*agent.Agent, error) {
	token, _, err := b.plane.Client.CreateJoinToken(ctx, 0)
	if err != nil {
		return nil, fmt.Errorf("make a join token: %w", err)
	}
	if word == bare {
		e = unmeasured{e}
	}
	return agent.New(agent.Config{
		Server: b.plane.URL, Data: data, Name: b.executor + "-" + word, Version: "bench", JoinToken: token, Executors: []executor.Executor{e},
		CPUs: 1, MemoryMiB: 512, Capabilities: []string{word}, Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
}

// unmeasured is an executor whose sandboxes can't be measured.
type unmeasured struct{ executor.Executor }

func (u unmeasured) Create(ctx context.Context, spec executor.Spec) (executor.Sandbox, error) {
	s, err := u.Executor.Create(ctx, spec)
	return plain{s}, err
}

func (u unmeasured) Adopt(ctx context.Context, id, dir string) (executor.Sandbox, error) {
	s, err := u.Executor.Adopt(ctx, id, dir)
	return plain{s}, err
}

// plain is a sandbox and nothing more.
type plain struct{ executor.Sandbox }

// bench runs jobs.
type bench struct {
	plane      *replica.Plane
	iterations int
	executor   string
	memoryMiB  int
	prefix     string // of the figures' names
}

// cost is what one job cost, in seconds.
type cost struct {
	took, job float64
	around    float64 // CPU of agent and server while it ran
	points    int     // of its series
}

func (b *bench) pairs(ctx context.Context, r *report.Report, pairs int) error {
	var with, without []cost
	for i := range pairs {
		a, err := b.job(ctx, measured)
		if err != nil {
			return err
		}
		f, err := b.job(ctx, bare)
		if err != nil {
			return err
		}
		if a.points == 0 || f.points > 0 {
			return fmt.Errorf("the measured job has %d points and the other %d", a.points, f.points)
		}
		progress("%s, pair %d of %d: %.2f s of CPU and %.3f s around it, %d points; without accounting %.2f s and %.3f s", b.executor, i+1, pairs,
			a.job, a.around, a.points, f.job, f.around)
		with, without = append(with, a), append(without, f)
	}
	const floor = "the same job on a host whose sandboxes can't be measured"
	const goal = "ratio<1.05"
	below := func(_, ratio float64) bool { return ratio < 1.05 }
	pick := func(of func(cost) float64) (a, f []float64) {
		for i := range with {
			a, f = append(a, of(with[i])), append(f, of(without[i]))
		}
		return a, f
	}
	a, f := pick(func(c cost) float64 { return c.job + c.around })
	r.Add(b.prefix+"cpu_s", "s", a, f, floor, goal, below)
	a, f = pick(func(c cost) float64 { return c.took })
	r.Add(b.prefix+"job_s", "s", a, f, floor, goal, below)
	a, f = pick(func(c cost) float64 { return 100 * c.around / c.job })
	extra := report.Median(a) - report.Median(f)
	r.Add(b.prefix+"overhead_percent", "%", []float64{extra}, nil, "", "value<5", func(value, _ float64) bool { return value < 5 })
	return nil
}

// script burns CPU and says how much, as the shell itself counts it.
const script = `i=0; while [ $i -lt $N ]; do i=$((i+1)); done; times`

// job runs one and returns what it cost.
func (b *bench) job(ctx context.Context, word string) (c cost, err error) {
	before, err := b.around()
	if err != nil {
		return c, err
	}
	needs, err := nimbus.CapabilitiesOf(word)
	if err != nil {
		return c, err
	}
	j, err := b.plane.Client.Submit(ctx, client.Submission{
		Class: nimbus.Class{Executor: b.executor, CPUs: 1, MemoryMiB: b.memoryMiB, Needs: needs},
		Spec:  nimbus.Spec{Command: []string{"/bin/sh", "-c", script}, Env: map[string]string{"N": fmt.Sprint(b.iterations)}},
	})
	if err != nil {
		return c, fmt.Errorf("submit: %w", err)
	}
	if j, err = b.await(ctx, j.ID); err != nil {
		return c, err
	}
	after, err := b.around()
	if err != nil {
		return c, err
	}
	c.took, c.around = j.Timeline.FinishedAt.Sub(j.Timeline.RunningAt).Seconds(), (after - before).Seconds()
	if c.job, err = b.says(ctx, j.ID); err != nil {
		return c, err
	}
	used, err := b.plane.Client.Usage(ctx, j.ID, "")
	c.points = len(used.Series.Points)
	return c, err
}

// around is the CPU time of the server and of this process, which has the agents.
func (b *bench) around() (time.Duration, error) {
	server, err := process.CPU(b.plane.PID())
	if err != nil {
		return 0, err
	}
	own, err := process.CPU(os.Getpid())
	return server + own, err
}

// await waits for the end of a job and of its sandbox.
func (b *bench) await(ctx context.Context, id string) (nimbus.Job, error) {
	for {
		j, err := b.plane.Client.Job(ctx, id)
		if err != nil {
			return j, fmt.Errorf("look for the job: %w", err)
		}
		if j.State == nimbus.StateFinished && !j.Timeline.DestroyedAt.IsZero() {
			if j.Result != nimbus.ResultSuccess {
				return j, fmt.Errorf("the job ended with %s: %s", j.Result, j.Reason.Message)
			}
			return j, nil
		}
		if j.State == nimbus.StateUnschedulable {
			return j, fmt.Errorf("no host runs the job: %s", j.Reason.Message)
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return j, ctx.Err()
		}
	}
}

// says reads from a job's log how much CPU its shell took: "0m1.23s 0m0.01s".
func (b *bench) says(ctx context.Context, id string) (seconds float64, err error) {
	for line, err := range b.plane.Client.Log(ctx, id, 1) {
		if err != nil {
			return 0, fmt.Errorf("read the job's log: %w", err)
		}
		user, system, ok := strings.Cut(line.Text, " ")
		if line.Stream != nimbus.StreamStdout || !ok {
			continue
		}
		u, err := time.ParseDuration(user)
		s, err2 := time.ParseDuration(system)
		if err := errors.Join(err, err2); err != nil {
			return 0, fmt.Errorf("read the job's times: %w", err)
		}
		return (u + s).Seconds(), nil // of the shell; the next line is of its children
	}
	return 0, errors.New("the job did not say what it took")
}
