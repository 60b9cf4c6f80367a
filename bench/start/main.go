// Command start measures how long a job waits for its first byte once a host
// has claimed it: in a machine that boots, in one that is made of a snapshot,
// and in one that waited, and in containers. The floor is the same monitor with
// the same files, started by hand without shim, cgroup, network slot or a disk of
// its own; of containers it is a bare exec into one that runs.
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
	"github.com/nimbus-ci/nimbus/internal/executor/local"
)

// counts is how many starts of each kind are measured.
type counts struct {
	each     int // one at a time
	together int // rounds of eight at once
}

// patience bounds one start.
const patience = 2 * time.Minute

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "bench-start:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	n := counts{each: 30, together: 5}
	if os.Getenv("QUICK") != "" {
		n = counts{each: 3, together: 1}
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
	r, p := report.New("start"), newParts()
	if err := measureLocal(ctx, r, p, bin, dir, n); err != nil {
		return err
	}
	if err := measureContainers(ctx, r, p, bin, dir, n); err != nil {
		return err
	}
	if err := measureMachines(ctx, r, p, bin, dir, n); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "\nwhere the time goes, medians in ms:")
	p.print(os.Stderr)
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

// startGoal is what a start may cost over its floor: shim, cgroup, network and the
// agent's own work.
const startGoal = "value<=1.25*floor+20"

// add reports the median, and the 95th percentile beside that of the floor.
// What has no goal is there to be compared with.
func (s *samples) add(r *report.Report, name, floorWhat, goal string) {
	floor := report.Median(s.floor)
	s.addWith(r, name, floorWhat, goal, func(value, _ float64) bool { return goal == "" || value <= 1.25*floor+20 })
}

func (s *samples) addWith(r *report.Report, name, floorWhat, goal string, ok func(value, ratio float64) bool) {
	r.Add(name+"_ms", "ms", s.work, s.floor, floorWhat, goal, ok)
	high := []float64{percentile(s.work)}
	r.Add(name+"_p95_ms", "ms", high, []float64{percentile(s.floor)}, floorWhat, "", func(float64, float64) bool { return true })
}

func percentile(v []float64) float64 {
	const p = 0.95
	sorted := slices.Sorted(slices.Values(v))
	return sorted[max(int(math.Ceil(p*float64(len(sorted))))-1, 0)]
}

func measureLocal(ctx context.Context, r *report.Report, p *parts, bin, dir string, n counts) error {
	e := local.New(local.Config{Shim: filepath.Join(bin, "nimbus-shim"), Guest: filepath.Join(bin, "nimbus-guest"), Owner: fmt.Sprintf("b%d", os.Getpid())})
	if status := e.Status(ctx); !status.Available {
		fmt.Fprintln(os.Stderr, "no local executor:", status.Detail)
		return nil
	}
	var cold samples
	for range n.each {
		err := cold.pair("local cold",
			func() (time.Duration, error) {
				return startOne(ctx, e, nimbus.Class{Executor: nimbus.ExecutorLocal, CPUs: 1, MemoryMiB: 256}, dir, p)
			},
			func() (time.Duration, error) { return bareExec(ctx) })
		if err != nil {
			return err
		}
	}
	cold.add(r, "local.cold", "a bare process that writes a byte", "")
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
