package microvm

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/imagetest"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/qemu"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// BenchmarkBoot makes and destroys machines, and tells where the time goes.
func BenchmarkBoot(b *testing.B) {
	testenv.Require(b, "root", "qemu", "nft", "mke2fs")
	images := imagetest.Runner(b)
	e := New(Config{
		Shim: testenv.Program(b, "cmd/nimbus-shim"), Guest: testenv.Program(b, "cmd/nimbus-guest"),
		Owner: fmt.Sprintf("b%d", os.Getpid()), Dir: b.TempDir(), Images: images, Driver: qemu.New(), Log: slog.New(slog.DiscardHandler),
	})
	r, err := e.recipe(b.Context(), nimbus.Class{CPUs: 1, MemoryMiB: 512, Image: nimbus.DefaultImage})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := e.disks.Empty(b.Context()); err != nil {
		b.Fatal(err)
	}
	stages := stages{b: b, spent: map[string]time.Duration{}}
	for b.Loop() {
		stages.machine(e, r)
	}
	for name, spent := range stages.spent {
		b.ReportMetric(float64(spent.Milliseconds())/float64(b.N), name+"-ms/op")
	}
}

type stages struct {
	b     *testing.B
	spent map[string]time.Duration
}

func (s stages) stage(name string, f func() error) {
	s.b.Helper()
	begin := time.Now()
	if err := f(); err != nil {
		s.b.Fatalf("%s: %v", name, err)
	}
	s.spent[name] += time.Since(begin)
}

// machine goes through what Create does, and Destroy.
func (s stages) machine(e *Executor, r recipe) {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "nimbus-bench-")
	if err != nil {
		s.b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	id := nimbus.NewID(nimbus.PrefixAttempt, time.Now())
	m := &sandbox{executor: e, id: id, machine: id, dir: dir}
	s.stage("initrd", func() (err error) { r.initrd, err = e.initrd(r.img); return err })
	s.stage("slot", func() (err error) {
		m.slot, err = e.slots.Create(ctx, m.id, netslot.Reach{Profile: nimbus.NetworkInternet})
		return err
	})
	s.stage("boot", func() error {
		return e.boot(ctx, m, r.machine(m), r, time.Minute)
	})
	s.spent["boot-cpu"] += s.processorTime(ctx, m)
	disk := filepath.Join(s.b.TempDir(), m.id)
	s.stage("disk", func() error { return e.disks.Make(ctx, disk) }) // a part of boot
	s.stage("destroy", func() error { return m.Destroy(ctx) })
}

// processorTime is what the monitor has used, which tells more than the clock
// on a busy machine.
func (s stages) processorTime(ctx context.Context, m *sandbox) time.Duration {
	pid, err := m.Shim.PID(ctx)
	if err != nil {
		s.b.Fatal(err)
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		s.b.Fatal(err)
	}
	const user, system, tick = 11, 12, 10 * time.Millisecond // behind the name, in parentheses
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+2:]))
	var ticks int
	for _, field := range []string{fields[user], fields[system]} {
		n, err := strconv.Atoi(field)
		if err != nil {
			s.b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * tick
}
