package gpu

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/executor/gpu/inventory"
)

// helper is a program that says these documents and then does something.
func helper(t *testing.T, then string, docs ...inventory.Document) *monitor {
	t.Helper()
	dir := t.TempDir()
	var said strings.Builder
	for _, d := range docs {
		if err := d.Write(&said); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "docs"), []byte(said.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "nimbus-nvml")
	script := fmt.Sprintf("#!/bin/sh\necho $$ >> %[1]s/pids\ncat %[1]s/docs\n%[2]s\n", dir, then)
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	m := newMonitor(func() (string, error) { return path, nil }, slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		for _, pid := range strings.Fields(read(t, filepath.Join(dir, "pids"))) {
			if _, err := os.Stat("/proc/" + pid); err == nil {
				t.Errorf("helper %s still runs", pid)
			}
		}
	})
	return m
}

func read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func one() []inventory.Document {
	return []inventory.Document{
		{Inventory: &inventory.Inventory{GPUs: []inventory.GPU{{UUID: "GPU-0", Model: "a"}}}},
		{Usage: &inventory.Usage{AtMillis: 1000, Samples: []inventory.Sample{{ID: "GPU-0"}}}},
	}
}

// watching watches until the test ends.
func watching(t *testing.T, m *monitor) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.watch(ctx, func() {})
	}()
	t.Cleanup(func() {
		stop()
		<-done
	})
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

// TestAHelperThatHangs is ended and started anew, and nothing that it said is
// believed meanwhile.
func TestAHelperThatHangs(t *testing.T) {
	t.Parallel()
	m := helper(t, "exec sleep 1000", one()...)
	m.stall = 3 * time.Second // in which a busy machine starts it
	watching(t, m)
	await(t, "it says what there is", func() bool { return m.now(nil).err == nil })
	await(t, "it hangs", func() bool { return m.now(nil).err != nil })
	await(t, "it is started anew", func() bool { return m.now(nil).err == nil })
}

// TestAHelperThatEnds says what it died of.
func TestAHelperThatEnds(t *testing.T) {
	t.Parallel()
	m := helper(t, "echo no memory >&2; exit 3", one()...)
	watching(t, m)
	await(t, "its last words are told", func() bool {
		err := m.now(nil).err
		return err != nil && strings.Contains(err.Error(), "no memory")
	})
}

// TestUseIsOfOneHelper: a helper's clock begins anew with it, and what it says
// first stands for nothing; a counter of energy comes before the power.
func TestUseIsOfOneHelper(t *testing.T) {
	t.Parallel()
	m := newMonitor(nil, slog.New(slog.DiscardHandler))
	say := func(at, busy, milliwatts, millijoules int64) {
		m.take(inventory.Document{Usage: &inventory.Usage{AtMillis: at, Samples: []inventory.Sample{
			{ID: "GPU-0", BusyPercent: int(busy), PowerMilliwatts: milliwatts, EnergyMillijoules: millijoules}}}}, false)
	}
	say(50_000, 100, 1000, 0)
	say(51_000, 100, 2000, 0)
	say(500, 100, 1000, 0) // another one
	say(1500, 50, 3000, 7_000_000)
	say(2500, 0, 9999, 7_000_400)
	say(90_000, 100, 1000, 7_000_400) // nobody knows what was in between
	u, err := m.usage([]string{"GPU-0"})
	if err != nil || u.Busy != 1500*time.Millisecond || u.Millijoules != 2000+3000+400 {
		t.Errorf("%+v, %v", u, err)
	}
	if _, err := m.usage([]string{"GPU-1"}); err == nil {
		t.Error("something is known of a GPU that isn't there")
	}
}
