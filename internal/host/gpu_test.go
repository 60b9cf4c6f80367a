package host_test

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/gpu/driver"
	"github.com/nimbus-ci/nimbus/internal/executor/gpu/gputest"
	"github.com/nimbus-ci/nimbus/internal/host"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// TestGPUsThroughAllRooms takes jobs through a host with eight GPUs: labels lead
// there, the job has as many as it asked for, what it did with them is in its
// record, the next agent knows whose they are, and one that goes bad is told of
// and no job's.
func TestGPUsThroughAllRooms(t *testing.T) {
	testenv.Require(t, "root", "dockerd", "nft", "mke2fs")
	machine := gputest.New(t)
	t.Setenv("PATH", machine.Dir+":"+os.Getenv("PATH"))
	d := testenv.DockerWith(t, append(machine.Flags(t), "--live-restore")...)
	must(t, d.Image("nimbus.test/torch", "1"))
	p, dir := startPlane(t), t.TempDir()
	cfg := host.Config{
		Data: dir, DockerHost: "unix://" + d.Socket, Executors: []string{nimbus.ExecutorGPU}, Programs: programsInPath, Log: logger(t),
		GPUImages: map[string]string{"pytorch": "nimbus.test/torch:1"}, CDIDirs: []string{machine.CDI},
	}
	stop := startConfigured(t, p, cfg)
	job := func(script string, labels ...string) nimbus.Job {
		req, err := nimbus.ParseLabels(append([]string{"nimbus", "gpu", "network:none"}, labels...))
		must(t, err)
		return p.submit(t, "", func(s *scheduler.Submission) {
			s.Class, s.Spec.Command = req.Class, []string{"sh", "-c", script}
		})
	}
	const see = "ls /dev | grep nvidia; env | grep -E '^(MOCK|NVIDIA)' | sort"
	j := job(see+"; echo ready; trap 'exit 0' TERM; while :; do sleep 0.1; done", "pytorch", "gpu-count:2", "cuda-12", "sm_80")
	p.awaitFor(t, time.Minute, j.ID, "ready", func(j nimbus.Job) bool { return j.LogLines >= 8 })
	machine.Set(t, driver.MockState{GPUs: map[int]driver.MockGPU{0: {PIDs: []int{1}, BusyPercent: 100, Watts: 400, MemoryMiB: 1000}, 1: {BusyPercent: 100, Watts: 400, MemoryMiB: 1000}}})
	used := func(least time.Duration) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
			u, err := p.scheduler.Usage(t.Context(), j.OrgID, j.ID, "")
			must(t, err)
			if u.Totals.GPU.Busy >= least && u.Totals.GPU.PeakMemoryBytes == 2008<<20 && u.Totals.GPU.Millijoules > 0 {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("it used %+v", u.Totals.GPU)
			}
		}
	}
	used(time.Second)
	stop()
	startConfigured(t, p, cfg)
	used(6 * time.Second)
	other := p.awaitFor(t, time.Minute, job(see, "pytorch", "gpu-count:6").ID, "finished", over)
	if got := p.log(t, other); other.Result != nimbus.ResultSuccess || strings.Contains(got, "nvidia0\n") || !strings.Contains(got, "nvidia7\n") {
		t.Errorf("another job: %s, %+v, log %q", other.Result, other.Reason, got)
	}
	_, err := p.scheduler.Cancel(t.Context(), nimbus.Principal{Kind: nimbus.PrincipalAdmin, Subject: "admin"}, nimbus.DefaultOrgID, j.ID)
	must(t, err)
	machine.Set(t, driver.MockState{})
	j = p.awaitFor(t, time.Minute, j.ID, "finished", over)
	text := p.log(t, j)
	if !strings.Contains(text, "nvidia0\nnvidia1\nnvidiactl\nMOCK_GPU_0=1\nMOCK_GPU_1=1\nNVIDIA_VISIBLE_DEVICES=void\nready\n") || !strings.Contains(text, gputest.ID(1)) {
		t.Errorf("the job saw %q", text)
	}
	if j.Usage.GPU.Busy < 6*time.Second {
		t.Errorf("its record has %+v", j.Usage.GPU)
	}
	empty(t, dir)

	machine.Set(t, driver.MockState{GPUs: map[int]driver.MockGPU{5: {XID: 79}}})
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		hosts, err := p.scheduler.Hosts(t.Context())
		must(t, err)
		inv := hosts[0].Inventory
		if slices.ContainsFunc(inv.GPUFaults, func(f nimbus.GPUFault) bool { return strings.Contains(f.Why, "XID 79") }) && inv.GPUs[0].Count == 7 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the host tells %+v", inv)
		}
	}
	j = job("true", "gpu-count:8")
	j = p.await(t, j.ID, "unschedulable", func(j nimbus.Job) bool { return j.State == nimbus.StateUnschedulable })
	if !strings.Contains(j.Reason.Message, "has 7 GPUs") {
		t.Errorf("the job is told %+v", j.Reason)
	}
}

// TestWithoutGPUs: a host that is to have some and has none says so, and does all
// else.
func TestWithoutGPUs(t *testing.T) {
	testenv.Require(t, "root")
	machine := gputest.New(t)
	machine.Set(t, driver.MockState{Missing: 12})
	t.Setenv("PATH", machine.Dir+":"+os.Getenv("PATH"))
	p, dir := startPlane(t), t.TempDir()
	startConfigured(t, p, host.Config{Data: dir, Executors: []string{nimbus.ExecutorGPU, nimbus.ExecutorLocal}, Programs: programsInPath, Log: logger(t)})
	p.await(t, p.submit(t, "true").ID, "finished", over)
	j := p.submit(t, "true", func(s *scheduler.Submission) { s.Class, s.Labels = nimbus.Class{}, []string{"gpu"} })
	j = p.await(t, j.ID, "unschedulable", func(j nimbus.Job) bool { return j.State == nimbus.StateUnschedulable })
	if !strings.Contains(j.Reason.Message, "NVIDIA's driver is not installed") {
		t.Errorf("the job is told %+v", j.Reason)
	}
}
