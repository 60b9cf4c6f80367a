package agent

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
)

// Thresholds are from where on a host asks for no more jobs, in percent; 0 for
// never. See nimbus.Load for what of.
type Thresholds struct{ CPU, Memory, IO, Disk int }

func (t Thresholds) of(p nimbus.Pressure) float64 {
	return float64(map[nimbus.Pressure]int{
		nimbus.PressureCPU: t.CPU, nimbus.PressureMemory: t.Memory, nimbus.PressureIO: t.IO, nimbus.PressureDisk: t.Disk,
	}[p])
}

func (t Thresholds) check() error {
	for _, p := range nimbus.Pressures() {
		if v := t.of(p); v < 0 || v > 100 {
			return nimbus.Errorf(nimbus.CodeInvalid, "the threshold of the pressure %s is %v percent", p, v).WithHint("it is 1 to 100, or 0 for never")
		}
	}
	return nil
}

// words are what is pressed, in a sentence with the share and the threshold.
func words(p nimbus.Pressure, share, threshold float64) string {
	what := map[nimbus.Pressure]string{
		nimbus.PressureCPU:    "work waited for a CPU in %.0f %% of the last minute",
		nimbus.PressureMemory: "everything waited for memory in %.0f %% of the last ten seconds",
		nimbus.PressureIO:     "everything waited for a disk in %.0f %% of the last minute",
		nimbus.PressureDisk:   "%.0f %% of the disk with the sandboxes is in use",
	}[p]
	return fmt.Sprintf(what+" (the threshold is %.0f %%)", share, threshold)
}

// ease is how far below its threshold a share must be before a host that closed
// for it asks again.
func ease(p nimbus.Pressure, threshold float64) float64 {
	if p == nimbus.PressureDisk {
		const points = 2 // a disk does not ease by itself
		return threshold - points
	}
	const part = 0.75
	return part * threshold
}

// judge says whether a host with that load asks for jobs: one that closed for
// something stays so until that has eased.
func (t Thresholds) judge(before nimbus.Pressure, l nimbus.Load) nimbus.Load {
	l.Closed, l.Why = "", ""
	for _, p := range append([]nimbus.Pressure{before}, nimbus.Pressures()...) {
		threshold := t.of(p)
		from := threshold
		if p == before {
			from = ease(p, threshold)
		}
		if threshold > 0 && l.Of(p) >= from {
			l.Closed, l.Why = p, words(p, l.Of(p), threshold)
			break
		}
	}
	return l
}

// pressure is how hard pressed the host is now.
type pressure struct {
	mu   sync.Mutex
	load nimbus.Load
}

func (p *pressure) now() nimbus.Load {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.load
}

// look takes a new load, and tells whether by that the host begins or ceases to
// ask for jobs.
func (p *pressure) look(t Thresholds, l nimbus.Load) (changed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.load.Closed
	p.load = t.judge(before, l)
	return (before == "") != (p.load.Closed == "")
}

// pressureLook is how often the host is looked at: the kernel's shortest share
// is of ten seconds.
const pressureLook = 2 * time.Second

// runPressureLoop has the host ask for no jobs while it is pressed.
func (a *Agent) runPressureLoop(ctx context.Context) error {
	ticker := time.NewTicker(pressureLook)
	defer ticker.Stop()
	for {
		if a.pressure.look(a.cfg.Pressure, loadOf(os.DirFS("/"), a.cfg.Data)) {
			if now := a.pressure.now(); now.Closed != "" {
				a.log.WarnContext(ctx, "this host asks for no jobs for now", "because", now.Why)
			} else {
				a.log.InfoContext(ctx, "this host asks for jobs again")
			}
			a.capacity.tell() // a poll that waits has said something else
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// loadOf reads how hard pressed the machine is whose root is fsys, and how full
// the disk of a folder is.
func loadOf(fsys fs.FS, dir string) nimbus.Load {
	l := nimbus.Load{
		CPU:    stalled(fact(fsys, "proc/pressure/cpu"), "some", "avg60"),
		Memory: stalled(fact(fsys, "proc/pressure/memory"), "full", "avg10"),
		IO:     stalled(fact(fsys, "proc/pressure/io"), "full", "avg60"),
	}
	if disk, err := executor.DiskOf(dir); err == nil {
		l.Disk = disk.Percent()
	}
	return l
}

// stalled reads one share of a file of /proc/pressure; 0 where it has none.
func stalled(text []byte, kind, span string) float64 {
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != kind {
			continue
		}
		for _, field := range fields[1:] {
			name, value, _ := strings.Cut(field, "=")
			if name != span {
				continue
			}
			share, err := strconv.ParseFloat(value, 64)
			if err != nil {
				return 0
			}
			return min(max(share, 0), 100)
		}
	}
	return 0
}
