package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/bench/report"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/qemu"
)

const floorWhat = "the same QEMU with the same files, started by hand"

// together is how many machines are made of one snapshot at once.
const together = 8

// machines measures QEMU's machines.
type machines struct {
	r     *report.Report
	parts *parts
	class nimbus.Class
	dir   string
	n     counts
}

// measureMachines measures one kind of start after another, each beside its
// floor.
func measureMachines(ctx context.Context, r *report.Report, p *parts, bin, dir string, n counts) error {
	images, err := filepath.Abs(filepath.Join(".cache", "images"))
	if err != nil {
		return fmt.Errorf("find the images: %w", err)
	}
	cfg := microvm.Config{
		Shim: filepath.Join(bin, "nimbus-shim"), Guest: filepath.Join(bin, "nimbus-guest"), Owner: fmt.Sprintf("b%d", os.Getpid()), Dir: filepath.Join(dir, "microvm"),
		Images: image.Store{Dir: images}, Driver: qemu.New(), Log: slog.New(p),
	}
	m := &machines{
		r: r, parts: p, dir: dir, n: n,
		class: nimbus.Class{Executor: nimbus.ExecutorMicroVM, Image: nimbus.DefaultImage, CPUs: 1, MemoryMiB: 512, Network: nimbus.NetworkNone},
	}
	made := microvm.New(cfg)
	if status := made.Status(ctx); !status.Available {
		fmt.Fprintln(os.Stderr, "no microVMs:", status.Detail)
		return nil
	}
	floors := make([]*floor, together)
	for i := range floors {
		f, err := newFloor(ctx, cfg, made, m.class, fmt.Sprintf("hand%d", i))
		if err != nil {
			return err
		}
		defer f.close(ctx)
		f.parts = p
		floors[i] = f
	}
	f := floors[0]
	one := func() (time.Duration, error) { return startOne(ctx, made, m.class, dir, p) }
	if err := m.repeat("qemu.cold", "", n.each, one, func() (time.Duration, error) { return f.cold(ctx) }); err != nil {
		return err
	}
	if err := f.save(ctx); err != nil {
		return err
	}
	for _, other := range floors {
		other.from = f.from
	}
	if err := m.repeat("qemu.restored", startGoal, n.each, one, func() (time.Duration, error) { return removed(f.restored(ctx)) }); err != nil {
		return err
	}
	if err := m.measureTogether(ctx, made, floors); err != nil {
		return err
	}
	cfg.Warm = microvm.WarmConfig{Machines: 1, MemoryMiB: 1024}
	return m.measureWarm(ctx, microvm.New(cfg), f)
}

func (m *machines) repeat(name, goal string, n int, work, floor func() (time.Duration, error)) error {
	var s samples
	for range n {
		if err := s.pair(name, work, floor); err != nil {
			return err
		}
	}
	s.add(m.r, name, floorWhat, goal)
	return nil
}

// measureTogether makes eight machines at once, until the last of their jobs
// has said something.
func (m *machines) measureTogether(ctx context.Context, e *microvm.Executor, floors []*floor) error {
	var pss []float64
	work := func() (time.Duration, error) {
		took, end, err := atOnce(func(int) (time.Duration, func() error, error) { return start(ctx, e, m.class, m.dir, newParts()) })
		if err != nil {
			return 0, errors.Join(err, end())
		}
		each, err := memoryMB(m.dir, "Pss:")
		pss = append(pss, each...)
		return took, errors.Join(err, end())
	}
	hand := func() (time.Duration, error) {
		took, end, err := atOnce(func(i int) (time.Duration, func() error, error) {
			f := *floors[i]
			f.parts = newParts()
			return f.restored(ctx)
		})
		return took, errors.Join(err, end())
	}
	name := fmt.Sprintf("qemu.restored_%d", together)
	if err := m.repeat(name, startGoal, m.n.together, work, hand); err != nil {
		return err
	}
	m.r.Add(name+"_pss_mb", "MB", pss, nil, "", "", func(float64, float64) bool { return true })
	return nil
}

// atOnce starts all of the machines and returns when the last is done. Those
// that were made live until end.
func atOnce(start func(i int) (time.Duration, func() error, error)) (took time.Duration, end func() error, err error) {
	var removes [together]func() error
	var group errgroup.Group
	began := time.Now()
	for i := range together {
		group.Go(func() (err error) {
			_, removes[i], err = start(i)
			return err
		})
	}
	err = group.Wait()
	took = time.Since(began)
	return took, func() (err error) {
		for _, remove := range removes {
			if remove != nil {
				err = errors.Join(err, remove())
			}
		}
		return err
	}, err
}

func (m *machines) measureWarm(ctx context.Context, e *microvm.Executor, f *floor) error {
	ctx, cancel := context.WithCancel(ctx)
	var keeping sync.WaitGroup
	defer keeping.Wait()
	defer cancel()
	keeping.Go(func() {
		free := func() nimbus.Capacity { return nimbus.Capacity{CPUs: 4, MemoryMiB: 4096, Sandboxes: 4} }
		if err := e.KeepWarm(ctx, free, func() {}); err != nil {
			fmt.Fprintln(os.Stderr, "bench-start:", err)
		}
	})
	if _, err := startOne(ctx, e, m.class, m.dir, newParts()); err != nil { // the pool learns of the class
		return err
	}
	var pss, own []float64
	// Both sides begin when the pool is full and rests: the next machine is made
	// as soon as one is taken.
	work := func() (time.Duration, error) {
		if err := awaitWarm(ctx, e); err != nil {
			return 0, err
		}
		shared, err := memoryMB(f.machines(), "Pss:")
		if err != nil {
			return 0, err
		}
		private, err := memoryMB(f.machines(), "Private_Dirty:")
		if err != nil {
			return 0, err
		}
		pss, own = append(pss, shared...), append(own, private...)
		return startOne(ctx, e, m.class, m.dir, m.parts)
	}
	hand := func() (time.Duration, error) {
		if err := awaitWarm(ctx, e); err != nil {
			return 0, err
		}
		return f.warm(ctx)
	}
	if err := m.repeat("qemu.warm", startGoal, m.n.each, work, hand); err != nil {
		return err
	}
	if hits, misses := e.WarmHits(); hits < m.n.each {
		return fmt.Errorf("%d of %d jobs found a machine that waited, where %d should", hits, hits+misses, m.n.each)
	}
	m.r.Add("qemu.warm_pss_mb", "MB", pss, nil, "", "", func(float64, float64) bool { return true })
	m.r.Add("qemu.warm_private_mb", "MB", own, nil, "", "value<64", func(value, _ float64) bool { return value < 64 })
	return nil
}

// awaitWarm waits until a machine waits.
func awaitWarm(ctx context.Context, e *microvm.Executor) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("no machine waits"))
	defer cancel()
	for len(e.Warm()) == 0 {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// memoryMB is the memory of each monitor that works in a folder of dir: "Pss:"
// with its share of what it has in common with others, "Private_Dirty:" what is
// its own and what one more would take.
func memoryMB(dir, kind string) ([]float64, error) {
	cwds, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var each []float64
	for _, cwd := range cwds {
		name, _ := os.ReadFile(filepath.Join(filepath.Dir(cwd), "comm")) // gone meanwhile is fine
		if where, err := os.Readlink(cwd); err != nil || filepath.Dir(where) != dir || !strings.HasPrefix(string(name), "qemu") {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(filepath.Dir(cwd), "smaps_rollup"))
		if err != nil {
			return nil, fmt.Errorf("read memory: %w", err)
		}
		for line := range strings.Lines(string(raw)) {
			if rest, ok := strings.CutPrefix(line, kind); ok {
				kib, err := strconv.Atoi(strings.Fields(rest)[0])
				if err != nil {
					return nil, fmt.Errorf("read memory: %w", err)
				}
				each = append(each, float64(kib)/1024)
			}
		}
	}
	if len(each) == 0 {
		return nil, errors.New("no monitor was found that waits")
	}
	return each, nil
}
