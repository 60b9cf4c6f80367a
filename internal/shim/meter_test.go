package shim

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// TestMeterOnEachHierarchy: v2 alone, v1 alone with its controllers apart, and
// both, where v2 counts CPU time and nothing else.
func TestMeterOnEachHierarchy(t *testing.T) {
	t.Parallel()
	const (
		statV2 = "usage_usec 2500000\nuser_usec 1\nsystem_usec 2\n"
		statV1 = "nr_periods 0\nnr_throttled 0\n"
		ioV2   = "253:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n8:16 rbytes=100 wbytes=200 rios=1 wios=1 dbytes=0 dios=0\n"
		memory = "cache 1\ninactive_file 400\ntotal_inactive_file 3000\n"
	)
	for name, c := range map[string]struct {
		trees []map[string]string // the first is v2 where it has cpu.stat of v2
		want  Usage
		oom   int64
	}{
		"v2": {[]map[string]string{
			{"cpu.stat": statV2, "memory.current": "5000\n", "memory.stat": "anon 1\ninactive_file 1000\n", "io.stat": ioV2,
				"memory.events": "low 0\noom 3\noom_kill 2\n", "cgroup.procs": ""},
		}, Usage{CPU: 2500 * time.Millisecond, MemoryBytes: 4000, ReadBytes: 4196, WrittenBytes: 8392}, 2},
		"v1": {[]map[string]string{
			{"cpu.stat": statV1, "cgroup.procs": ""},
			{"cpuacct.usage": "1500000000\n", "cgroup.procs": ""},
			{"memory.usage_in_bytes": "9000\n", "memory.stat": memory, "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n", "cgroup.procs": ""},
		}, Usage{CPU: 1500 * time.Millisecond, MemoryBytes: 6000}, 4},
		"both": {[]map[string]string{
			{"cpu.stat": statV1, "cgroup.procs": ""},
			{"memory.usage_in_bytes": "9000\n", "memory.stat": memory, "cgroup.procs": ""},
			{"cpu.stat": statV2, "cgroup.procs": ""},
		}, Usage{CPU: 2500 * time.Millisecond, MemoryBytes: 6000}, 0},
		"all of it is cached": {[]map[string]string{
			{"cpu.stat": statV2, "memory.current": "500\n", "memory.stat": "inactive_file 1000\n", "io.stat": "", "cgroup.procs": ""},
		}, Usage{CPU: 2500 * time.Millisecond}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := group{name: "box"}
			for _, files := range c.trees {
				h := hierarchy{path: t.TempDir(), v2: files["cpu.stat"] == statV2}
				g.trees = append(g.trees, h)
				if err := os.MkdirAll(g.dir(h), 0o755); err != nil {
					t.Fatal(err)
				}
				for file, text := range files {
					if err := os.WriteFile(filepath.Join(g.dir(h), file), []byte(text), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			m := newMeter(g)
			got, err := m.read()
			if err != nil || got != c.want {
				t.Errorf("got %+v, %v; want %+v", got, err, c.want)
			}
			if n := m.oomKills(); n != c.oom {
				t.Errorf("%d were killed, want %d", n, c.oom)
			}
		})
	}
}

// TestGroupOfAnother: the group that somebody else made is found by a process in
// it, in every hierarchy that has it, and is told from that of the whole machine.
func TestGroupOfAnother(t *testing.T) {
	t.Parallel()
	testenv.Require(t, "root")
	trees, err := hierarchies()
	if err != nil {
		t.Fatal(err)
	}
	ours := group{name: fmt.Sprintf("other-%d", os.Getpid()), trees: trees}
	sleep := exec.CommandContext(t.Context(), "sleep", "1000")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		sleep.Process.Kill()
		sleep.Wait()
		for _, h := range trees {
			os.Remove(ours.dir(h))
		}
	})
	for _, h := range trees {
		if err := os.MkdirAll(ours.dir(h), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := write(filepath.Join(ours.dir(h), "cgroup.procs"), strconv.Itoa(sleep.Process.Pid)); err != nil {
			t.Fatal(err)
		}
	}
	found, err := groupOf(sleep.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if len(found.trees) != len(trees) {
		t.Errorf("found in %d hierarchies of %d: %v", len(found.trees), len(trees), found.places)
	}
	for _, h := range trees {
		if found.dir(h) != ours.dir(h) {
			t.Errorf("in %s it is %q, not %q", h.path, found.dir(h), ours.dir(h))
		}
	}
	if u, err := newMeter(found).read(); err != nil || u.Member != sleep.Process.Pid {
		t.Errorf("%+v, %v", u, err)
	}
	for _, h := range trees {
		if err := write(filepath.Join(h.path, "cgroup.procs"), strconv.Itoa(sleep.Process.Pid)); err != nil {
			t.Fatal(err)
		}
	}
	if g, err := groupOf(sleep.Process.Pid); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of the whole machine: %v, %v", g.places, err)
	}
}

// TestMeterOfNonsense: what is no number is an error, not a zero.
func TestMeterOfNonsense(t *testing.T) {
	t.Parallel()
	h := hierarchy{path: t.TempDir(), v2: true}
	g := group{name: "box", trees: []hierarchy{h}}
	if err := os.MkdirAll(g.dir(h), 0o755); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{"cgroup.procs": "", "cpu.stat": "usage_usec much\n"} {
		if err := os.WriteFile(filepath.Join(g.dir(h), file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if u, err := newMeter(g).read(); err == nil {
		t.Errorf("it became %+v", u)
	}
}
