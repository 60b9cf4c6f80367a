// Command start measures how long a job waits for its first byte once a host
// has claimed it: in a machine that boots, in one that is made of a snapshot,
// and in one that waited. The floor is the same monitor with the same files,
// started by hand without shim, cgroup, network slot or a disk of its own.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/bench/report"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/local"
)

// Starts of each kind.
const (
	starts      = 30
	startsQuick = 3
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "bench-start:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	n := starts
	if os.Getenv("QUICK") != "" {
		n = startsQuick
	}
	dir, err := os.MkdirTemp("", "nimbus-bench-")
	if err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	defer os.RemoveAll(dir)
	bin, err := filepath.Abs("bin")
	if err != nil {
		return fmt.Errorf("find the programs: %w", err)
	}
	r := report.New("start")
	if err := measureLocal(ctx, r, bin, dir, n); err != nil {
		return err
	}
	if err := measureMachines(ctx, r, bin, dir, n); err != nil {
		return err
	}
	return r.Write(os.Stdout)
}

// samples are milliseconds, of the work and of its floor.
type samples struct{ work, floor []float64 }

// pair measures one start and one floor.
func (s *samples) pair(what string, work, floor func() (time.Duration, error)) error {
	for _, side := range []struct {
		into    *[]float64
		measure func() (time.Duration, error)
	}{{&s.work, work}, {&s.floor, floor}} {
		took, err := side.measure()
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		*side.into = append(*side.into, float64(took.Microseconds())/1000)
	}
	last := len(s.work) - 1
	fmt.Fprintf(os.Stderr, "%s %d: %.0f ms, floor %.0f ms\n", what, last+1, s.work[last], s.floor[last])
	return nil
}

// add reports the median, and the 95th percentile beside that of the floor.
func (s *samples) add(r *report.Report, name, floorWhat string) {
	goal := "value<=1.25*floor+20"
	floor := report.Median(s.floor)
	r.Add(name+"_ms", "ms", s.work, s.floor, floorWhat, goal, func(value, _ float64) bool { return value <= 1.25*floor+20 })
	high := []float64{percentile(s.work)}
	r.Add(name+"_p95_ms", "ms", high, []float64{percentile(s.floor)}, floorWhat, "", func(float64, float64) bool { return true })
}

func percentile(v []float64) float64 {
	const p = 0.95
	sorted := slices.Sorted(slices.Values(v))
	return sorted[max(int(math.Ceil(p*float64(len(sorted))))-1, 0)]
}

func measureLocal(ctx context.Context, r *report.Report, bin, dir string, n int) error {
	e := local.New(local.Config{Shim: filepath.Join(bin, "nimbus-shim"), Guest: filepath.Join(bin, "nimbus-guest"), Owner: fmt.Sprintf("b%d", os.Getpid())})
	if status := e.Status(ctx); !status.Available {
		fmt.Fprintln(os.Stderr, "no local executor:", status.Detail)
		return nil
	}
	var cold samples
	for range n {
		err := cold.pair("local cold",
			func() (time.Duration, error) {
				return start(ctx, e, nimbus.Class{Executor: nimbus.ExecutorLocal, CPUs: 1, MemoryMiB: 256}, dir)
			},
			func() (time.Duration, error) { return bareExec(ctx) })
		if err != nil {
			return err
		}
	}
	cold.add(r, "local.cold", "a bare process that writes a byte")
	return nil
}

// bareExec is a process and its first byte.
func bareExec(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", "echo x")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, fmt.Errorf("make pipe: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start process: %w", err)
	}
	_, err = io.ReadFull(out, make([]byte, 1))
	took := time.Since(began)
	return took, errors.Join(err, cmd.Wait())
}

// start is what an agent does from a claim to the first byte of the job.
func start(ctx context.Context, e executor.Executor, class nimbus.Class, dir string) (took time.Duration, err error) {
	id := nimbus.NewID(nimbus.PrefixAttempt, time.Now())
	own := filepath.Join(dir, id[len(id)-8:])
	if err := os.Mkdir(own, 0o700); err != nil {
		return 0, fmt.Errorf("make folder: %w", err)
	}
	defer os.RemoveAll(own)
	began := time.Now()
	s, err := e.Create(ctx, executor.Spec{ID: id, Dir: own, Class: class, Deadline: 5 * time.Minute})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.Destroy(ctx)) }()
	conn, err := s.Dial(ctx)
	if err != nil {
		return 0, err
	}
	err = firstByte(ctx, conn, s.Token(), s.Network())
	return time.Since(began), err
}
