package host_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/agent"
	"github.com/nimbus-ci/nimbus/internal/host"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// TestUsageThroughAllRooms: what a job uses is known while it runs, goes on with
// the next agent, and is whole at its end.
func TestUsageThroughAllRooms(t *testing.T) {
	testenv.Require(t, "root")
	p, dir := startPlane(t), t.TempDir()
	stop := startHost(t, p, dir)
	j := p.submit(t, `dd if=/dev/zero of=f bs=1M count=16 conv=fsync 2>/dev/null
until [ -e go ]; do i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done
done; echo burnt`)
	used := func() scheduler.JobUsage {
		t.Helper()
		u, err := p.scheduler.Usage(t.Context(), j.OrgID, j.ID, "")
		must(t, err)
		return u
	}
	await := func(what string, ok func(scheduler.JobUsage) bool) scheduler.JobUsage {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
			if u := used(); ok(u) {
				return u
			}
		}
		t.Fatalf("%s: %+v", what, used())
		return scheduler.JobUsage{}
	}
	live := await("it is told while the job runs", func(u scheduler.JobUsage) bool {
		return len(u.Series.Points) >= 2 && u.Totals.CPUTime >= 100*time.Millisecond && u.Totals.WrittenBytes >= 16<<20 && u.Totals.PeakMemoryBytes > 0
	})
	stop()
	startHost(t, p, dir)
	goOn := await("the next agent goes on", func(u scheduler.JobUsage) bool { return len(u.Series.Points) > len(live.Series.Points) })
	if goOn.Series.Points[0] != live.Series.Points[0] || !goOn.Series.Start.Equal(live.Series.Start) {
		t.Errorf("it began anew: %+v, before %+v", goOn.Series, live.Series)
	}
	works, err := filepath.Glob(filepath.Join(dir, "attempts", "*", "sandbox", "work"))
	must(t, err)
	if len(works) != 1 {
		t.Fatalf("where the job works: %q", works)
	}
	must(t, os.WriteFile(filepath.Join(works[0], "go"), nil, 0o600))
	j = p.await(t, j.ID, "finished", over)
	end := used()
	if j.Usage != end.Totals || j.Usage.CPUTime < goOn.Totals.CPUTime || j.Usage.WrittenBytes < 16<<20 || len(end.Series.Points) < len(goOn.Series.Points) {
		t.Errorf("at its end %+v, before %+v", end.Totals, goOn.Totals)
	}
	if took := j.Timeline.FinishedAt.Sub(j.Timeline.RunningAt); j.Usage.CPUTime > took+time.Second {
		t.Errorf("on one CPU it used %s in %s", j.Usage.CPUTime, took)
	}
	empty(t, dir)
}

// TestOutOfMemoryIsTold: the kernel kills of a job that needs more memory than it
// may have, and the job says so.
func TestOutOfMemoryIsTold(t *testing.T) {
	testenv.Require(t, "root")
	p, dir := startPlane(t), t.TempDir()
	startHost(t, p, dir)
	for what, script := range map[string]string{
		"its process": "a=x; while :; do a=$a$a; done",
		"a child":     "sh -c 'a=x; while :; do a=$a$a; done'; exit 5",
	} {
		j := p.submit(t, script, func(s *scheduler.Submission) { s.Class.MemoryMiB = 64 })
		j = p.await(t, j.ID, "finished", over)
		if j.Result != nimbus.ResultFailure || j.Reason.Code != nimbus.ReasonLimit {
			t.Errorf("%s: ended with %s, %+v", what, j.Result, j.Reason)
		}
	}
	// One that ends well all the same is told what its output may lack.
	j := p.submit(t, "sh -c 'a=x; while :; do a=$a$a; done'; exit 0", func(s *scheduler.Submission) { s.Class.MemoryMiB = 64 })
	j = p.await(t, j.ID, "finished", over)
	if got := p.log(t, j); j.Result != nimbus.ResultSuccess || !strings.HasSuffix(got, "nimbus: something in it was ended for want of memory: it had 64 MiB\n") {
		t.Errorf("ended with %s, %+v, log %q", j.Result, j.Reason, got)
	}
	j = p.submit(t, "exit 5", func(s *scheduler.Submission) { s.Class.MemoryMiB = 256 })
	if j = p.await(t, j.ID, "finished", over); j.Reason.Code != nimbus.ReasonNone {
		t.Errorf("a job that only fails ended with %+v", j.Reason)
	}
}

// TestAHostThatIsPressedTakesNoJobs: its disk is over a threshold that any disk
// is over.
func TestAHostThatIsPressedTakesNoJobs(t *testing.T) {
	testenv.Require(t, "root")
	p, dir := startPlane(t), t.TempDir()
	stop := startConfigured(t, p, host.Config{Data: dir, Programs: programsInPath, Log: logger(t), Pressure: agent.Thresholds{Disk: 1}})
	closed := func() nimbus.Load {
		t.Helper()
		hosts, err := p.scheduler.Hosts(t.Context())
		must(t, err)
		return hosts[0].Free.Load
	}
	for deadline := time.Now().Add(time.Minute); closed().Closed != nimbus.PressureDisk; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it says %+v", closed())
		}
	}
	j := p.submit(t, "true")
	time.Sleep(3 * time.Second)
	if j, err := p.scheduler.Job(t.Context(), j.OrgID, j.ID); err != nil || j.State.Live() {
		t.Errorf("the job is %s, %v", j.State, err)
	}
	stop()
	startHost(t, p, dir)
	p.await(t, j.ID, "finished", over)
}

// TestCPUPressureCountsWhereCPUsAreShared, unless it is said otherwise.
func TestCPUPressureCountsWhereCPUsAreShared(t *testing.T) {
	t.Parallel()
	for want, f := range map[int]host.LoadFlags{
		0:  {OvercommitCPU: 1},
		90: {OvercommitCPU: 1.5},
		50: {OvercommitCPU: 1, PressureCPU: new(50)},
	} {
		var cfg host.Config
		if f.ApplyLoad(&cfg); cfg.Pressure.CPU != want {
			t.Errorf("%+v: %d percent, want %d", f, cfg.Pressure.CPU, want)
		}
	}
	var cfg host.Config
	if (host.LoadFlags{OvercommitCPU: 2, PressureCPU: new(0)}).ApplyLoad(&cfg); cfg.Pressure.CPU != 0 {
		t.Errorf("turned off it is %d percent", cfg.Pressure.CPU)
	}
}
