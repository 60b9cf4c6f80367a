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

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/bench/report"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/qemu"
)

const floorWhat = "the same QEMU with the same files, started by hand"

// measureMachines measures QEMU's machines, one kind after another, each beside
// its floor.
func measureMachines(ctx context.Context, r *report.Report, bin, dir string, n int) error {
	images, err := filepath.Abs(filepath.Join(".cache", "images"))
	if err != nil {
		return fmt.Errorf("find the images: %w", err)
	}
	cfg := microvm.Config{
		Shim: filepath.Join(bin, "nimbus-shim"), Guest: filepath.Join(bin, "nimbus-guest"), Owner: fmt.Sprintf("b%d", os.Getpid()), Dir: filepath.Join(dir, "microvm"),
		Images: image.Store{Dir: images}, Driver: qemu.New(), Log: slog.New(slog.DiscardHandler),
	}
	class := nimbus.Class{Executor: nimbus.ExecutorMicroVM, Image: nimbus.DefaultImage, CPUs: 1, MemoryMiB: 512, Network: nimbus.NetworkNone}
	cold := microvm.New(cfg)
	if status := cold.Status(ctx); !status.Available {
		fmt.Fprintln(os.Stderr, "no microVMs:", status.Detail)
		return nil
	}
	f, err := newFloor(ctx, cfg, cold, class)
	if err != nil {
		return err
	}
	defer f.close(ctx)
	work := func(e *microvm.Executor) func() (time.Duration, error) {
		return func() (time.Duration, error) { return start(ctx, e, class, dir) }
	}
	if err := repeat(r, "qemu.cold", n, work(cold), func() (time.Duration, error) { return f.cold(ctx) }); err != nil {
		return err
	}
	if err := f.save(ctx); err != nil {
		return err
	}
	if err := repeat(r, "qemu.restored", n, work(cold), func() (time.Duration, error) { return f.restored(ctx, false) }); err != nil {
		return err
	}
	cfg.Warm = microvm.WarmConfig{Machines: 1, MemoryMiB: 1024}
	return measureWarm(ctx, r, microvm.New(cfg), class, n, work, f)
}

func repeat(r *report.Report, name string, n int, work, floor func() (time.Duration, error)) error {
	var s samples
	for range n {
		if err := s.pair(name, work, floor); err != nil {
			return err
		}
	}
	s.add(r, name, floorWhat)
	return nil
}

func measureWarm(ctx context.Context, r *report.Report, e *microvm.Executor, class nimbus.Class, n int, work func(*microvm.Executor) func() (time.Duration, error), f *floor) error {
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
	if _, err := work(e)(); err != nil { // the pool learns of the class
		return err
	}
	var pss []float64
	waited := func() (time.Duration, error) {
		for len(e.Warm()) == 0 {
			select {
			case <-time.After(10 * time.Millisecond):
			case <-time.After(time.Minute):
				return 0, errors.New("no machine waits")
			}
		}
		mb, err := proportionalMB(f.machines())
		if err != nil {
			return 0, err
		}
		pss = append(pss, mb)
		return work(e)()
	}
	if err := repeat(r, "qemu.warm", n, waited, func() (time.Duration, error) { return f.restored(ctx, true) }); err != nil {
		return err
	}
	hits, misses := e.WarmHits()
	if hits < n {
		return fmt.Errorf("%d of %d jobs found a machine that waited, where %d should", hits, hits+misses, n)
	}
	r.Add("qemu.warm_pss_mb", "MB", pss, nil, "", "value<64", func(value, _ float64) bool { return value < 64 })
	return nil
}

// proportionalMB is the memory of the monitor that works in a folder of dir,
// with its share of what it has in common with others.
func proportionalMB(dir string) (float64, error) {
	cwds, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		return 0, fmt.Errorf("list processes: %w", err)
	}
	for _, cwd := range cwds {
		name, _ := os.ReadFile(filepath.Join(filepath.Dir(cwd), "comm")) // gone meanwhile is fine
		if where, err := os.Readlink(cwd); err != nil || filepath.Dir(where) != dir || !strings.HasPrefix(string(name), "qemu") {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(filepath.Dir(cwd), "smaps_rollup"))
		if err != nil {
			return 0, fmt.Errorf("read memory: %w", err)
		}
		for line := range strings.Lines(string(raw)) {
			if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
				kib, err := strconv.Atoi(strings.Fields(rest)[0])
				return float64(kib) / 1024, err
			}
		}
	}
	return 0, errors.New("no monitor was found that waits")
}
