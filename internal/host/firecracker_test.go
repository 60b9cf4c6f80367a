package host_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/imagetest"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/choice"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/firecracker/firecrackertest"
	"github.com/nimbus-ci/nimbus/internal/host"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// withFirecracker puts the double of Firecracker in front of PATH.
func withFirecracker(t *testing.T) {
	t.Helper()
	testenv.Require(t, "root", "nft", "mke2fs", "/dev/kvm")
	t.Setenv("PATH", filepath.Dir(firecrackertest.Double(t).Firecracker)+":"+os.Getenv("PATH"))
}

// withoutFirecracker takes the folders that have one out of PATH.
func withoutFirecracker(t *testing.T) {
	t.Helper()
	folders := slices.DeleteFunc(filepath.SplitList(os.Getenv("PATH")), func(dir string) bool {
		_, err := os.Stat(filepath.Join(dir, "firecracker"))
		return err == nil
	})
	t.Setenv("PATH", strings.Join(folders, ":"))
}

// machines is the configuration of a host that boots machines.
func machines(t *testing.T, dir, monitor string) host.Config {
	t.Helper()
	return host.Config{
		Data: dir, VMM: monitor, Images: imagetest.Runner(t).Dir, Programs: programsInPath, Log: logger(t),
		Executors: []string{nimbus.ExecutorMicroVM, nimbus.ExecutorFirecracker},
	}
}

// jobProgram is testdata/job.
func jobProgram(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "job")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", path, "./testdata/job")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	raw, err := os.ReadFile(path)
	must(t, err)
	return raw
}

// TestFirecracker takes jobs through a host whose microVMs are Firecracker's:
// the label leads there, output and exit code come back, a new agent takes a
// machine over, and nothing is left.
func TestFirecracker(t *testing.T) {
	withFirecracker(t)
	p, dir := startPlane(t), t.TempDir()
	cfg := machines(t, dir, choice.Auto)
	stop := startConfigured(t, p, cfg)
	workspace := p.putFile(t, "job", jobProgram(t))
	job := func(class nimbus.Class, labels []string, word string) nimbus.Job {
		return p.submit(t, "", func(s *scheduler.Submission) {
			s.Class, s.Labels = class, labels
			s.Class.CPUs, s.Class.MemoryMiB = 1, 256
			s.Spec.Command, s.Spec.WorkspaceID, s.Spec.Env = []string{"./job", word}, workspace, map[string]string{"NAME": "nimbus"}
		})
	}
	for name, j := range map[string]nimbus.Job{
		nimbus.ExecutorFirecracker: job(nimbus.Class{}, []string{"nimbus", "firecracker"}, "greet"),
		nimbus.ExecutorMicroVM:     job(nimbus.Class{Executor: nimbus.ExecutorMicroVM}, nil, "greet"),
	} {
		j = p.await(t, j.ID, "finished", over)
		if j.Class.Executor != name || j.Result != nimbus.ResultFailure || j.ExitCode == nil || *j.ExitCode != 3 || p.log(t, j) != "hello nimbus\n" {
			t.Errorf("%s: executor %s, %s, exit code %v, %+v, log %q", name, j.Class.Executor, j.Result, j.ExitCode, j.Reason, p.log(t, j))
		}
	}

	j := job(nimbus.Class{Executor: nimbus.ExecutorFirecracker}, nil, "wait")
	p.await(t, j.ID, "running", func(j nimbus.Job) bool { return j.LogLines > 0 })
	if users := jailed(t); len(users) == 0 {
		t.Error("no process has a jail's user")
	}
	stop()
	cfg.VMM = "qemu" // an agent that makes no machines of this kind takes over those that there are
	startConfigured(t, p, cfg)
	_, err := p.scheduler.Cancel(t.Context(), nimbus.Principal{Kind: nimbus.PrincipalAdmin, Subject: "admin"}, nimbus.DefaultOrgID, j.ID)
	must(t, err)
	j = p.await(t, j.ID, "finished", over)
	if j.Result != nimbus.ResultCancelled || !strings.HasPrefix(p.log(t, j), "waiting\nending\n") {
		t.Errorf("%s, %+v, log %q", j.Result, j.Reason, p.log(t, j))
	}
	empty(t, dir)
	// One that was killed is seen until its parent has heard of it.
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		users := jailed(t)
		if len(users) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("processes of jails are left: %v", users)
		}
	}
}

// jailed lists the processes whose users are those that agents give to jails.
func jailed(t *testing.T) (found []string) {
	t.Helper()
	statuses, err := filepath.Glob("/proc/[0-9]*/status")
	must(t, err)
	for _, path := range statuses {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(raw), "\nUid:")
		var uid int
		if n, _ := fmt.Sscan(rest, &uid); n == 1 && uid >= 1_900_000_000 && uid < 1<<31 {
			found = append(found, strings.TrimSpace(strings.TrimPrefix(strings.SplitN(string(raw), "\n", 2)[0], "Name:")))
		}
	}
	return found
}

// TestWhyNoFirecracker: a host says why it offers none, and so does the job that
// asks for it.
func TestWhyNoFirecracker(t *testing.T) {
	testenv.Require(t, "root", "nft", "mke2fs", "qemu")
	withoutFirecracker(t)
	for name, c := range map[string]struct {
		monitor, detail string
		machines        bool // it has microVMs all the same
	}{
		"it isn't installed":  {choice.Auto, "firecracker is not installed", true},
		"QEMU was asked for":  {"qemu", "told to use QEMU", true},
		"nothing else may be": {"firecracker", "firecracker is not installed", false},
	} {
		executors, err := host.Executors(machines(t, t.TempDir(), c.monitor))
		must(t, err)
		var statuses []nimbus.ExecutorStatus
		for _, e := range executors {
			statuses = append(statuses, e.Status(t.Context()))
		}
		if len(statuses) != 2 || statuses[0].Available != c.machines || statuses[1].Available || statuses[1].Name != nimbus.ExecutorFirecracker ||
			!strings.Contains(statuses[1].Detail, c.detail) || statuses[1].Hint == "" {
			t.Errorf("%s: %+v", name, statuses)
		}
	}
	if _, err := host.Executors(machines(t, t.TempDir(), "xen")); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
		t.Errorf("got %v", err)
	}

	p := startPlane(t)
	startConfigured(t, p, machines(t, t.TempDir(), choice.Auto))
	j := p.submit(t, "true", func(s *scheduler.Submission) { s.Class, s.Labels = nimbus.Class{}, []string{"firecracker"} })
	j = p.await(t, j.ID, "unschedulable", func(j nimbus.Job) bool { return j.State == nimbus.StateUnschedulable })
	if !strings.Contains(j.Reason.Message, "firecracker is not installed") {
		t.Errorf("the job is told %+v", j.Reason)
	}
}

// TestFirecrackerAlone: a host may offer nothing but Firecracker.
func TestFirecrackerAlone(t *testing.T) {
	withFirecracker(t)
	cfg := machines(t, t.TempDir(), "firecracker")
	cfg.Executors = []string{nimbus.ExecutorFirecracker}
	executors, err := host.Executors(cfg)
	must(t, err)
	if len(executors) != 1 {
		t.Fatalf("%d executors", len(executors))
	}
	s := executors[0].Status(t.Context())
	if s.Name != nimbus.ExecutorFirecracker || !s.Available || !strings.HasPrefix(s.Detail, "Firecracker ") {
		t.Errorf("got %+v", s)
	}
}
