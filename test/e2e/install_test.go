package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// booted is a machine of its own as far as its userland can tell: this one's
// files, under a systemd of its own.
type booted struct {
	t    *testing.T
	init int // systemd's process
}

// boot starts one, which sees what is bound, each at its own path. See
// testdata/boot.sh.
func boot(t *testing.T, binds ...string) *booted {
	t.Helper()
	testenv.Require(t, "root", "/lib/systemd/systemd", "nsenter", "unshare")
	name := fmt.Sprintf("nimbus-e2e-%d", os.Getpid())
	var output bytes.Buffer
	cmd := exec.Command("testdata/boot.sh", append([]string{name, t.TempDir()}, binds...)...)
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // and with it all in its namespaces
		<-ended
		await(t, time.Minute, "its control groups are gone", func() bool { return removeGroups(t, name) })
		if t.Failed() {
			t.Logf("the boot said:\n%s", output.String())
		}
	})
	b := &booted{t: t}
	await(t, time.Minute, "systemd runs", func() bool {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
		if _, scanErr := fmt.Sscan(string(children), &b.init); err != nil || scanErr != nil {
			return false
		}
		out, _ := b.command("systemctl", "is-system-running").Output() // fails while it starts
		return strings.TrimSpace(string(out)) == "running"
	})
	return b
}

// removeGroups removes the control groups of a machine that has ended.
func removeGroups(t *testing.T, name string) (gone bool) {
	t.Helper()
	roots, err := filepath.Glob("/sys/fs/cgroup/*/" + name)
	if err != nil {
		t.Fatal(err)
	}
	for _, root := range append(roots, "/sys/fs/cgroup/"+name) {
		var dirs []string
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for i := len(dirs) - 1; i >= 0; i-- {
			_ = syscall.Rmdir(dirs[i])
		}
		if _, err := os.Stat(root); err == nil {
			return false
		}
	}
	return true
}

// command is one that runs in the machine.
func (b *booted) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(b.t.Context(), "nsenter", append([]string{"--target", fmt.Sprint(b.init), "--all", "--wd=/"}, args...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "NIMBUS_SERVER=http://127.0.0.1:8080", "NO_COLOR=1"}
	return cmd
}

// must runs a command there that has to succeed.
func (b *booted) must(args ...string) string {
	b.t.Helper()
	cmd := b.command(args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		journal, _ := b.command("journalctl", "--no-pager", "-n", "40", "-u", "nimbus-agent").CombinedOutput()
		b.t.Fatalf("%v: %v\n%s%s\n%s", args, err, out, stderr.String(), journal)
	}
	return string(out)
}

// installed is what an installation says.
type installed struct {
	Files []struct {
		Path   string `json:"path"`
		Change string `json:"change"`
	} `json:"files"`
	Agent struct {
		Active string `json:"active"`
		PID    string `json:"pid"`
	} `json:"agent"`
}

func (b *booted) install(args ...string) installed {
	b.t.Helper()
	var v installed
	if err := json.Unmarshal([]byte(b.must(append(args, "--wait", "3m")...)), &v); err != nil {
		b.t.Fatal(err)
	}
	if v.Agent.Active != "active" || v.Agent.PID == "" {
		b.t.Fatalf("the agent is %+v", v.Agent)
	}
	return v
}

// serve starts a control plane there and writes a join token.
func (b *booted) serve(nimbus string) {
	b.t.Helper()
	up := b.command(nimbus, "up", "--no-agent", "--allow-trusted-local", "--data", "/srv/nimbus")
	var output bytes.Buffer
	up.Stdout, up.Stderr = &output, &output
	up.WaitDelay = time.Second // nsenter can be killed; what it started ends with the machine
	if err := up.Start(); err != nil {
		b.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = up.Wait(); close(ended) }()
	b.t.Cleanup(func() {
		_ = up.Process.Kill()
		<-ended
		if b.t.Failed() {
			b.t.Logf("the control plane said:\n%s", output.String())
		}
	})
	await(b.t, time.Minute, "the control plane answers", func() bool {
		return b.command(nimbus, "--token-file", "/srv/nimbus/admin.token", "hosts").Run() == nil
	})
}

func (b *booted) token(nimbus string) {
	b.t.Helper()
	b.must("sh", "-c", nimbus+" --token-file /srv/nimbus/admin.token hosts token > /srv/join.token")
}

// jobView is what the command line tells of a job.
type jobView struct {
	Job struct {
		ID           string `json:"id"`
		Result       string `json:"result"`
		AttemptCount int    `json:"attempt_count"`
	} `json:"job"`
}

// TestInstall: an agent is installed under a real systemd, upgraded while a job
// runs in a microVM, killed, and taken away.
func TestInstall(t *testing.T) {
	images := requireMicroVMs(t)
	b := boot(t, bin, images)
	nimbus := filepath.Join(bin, "nimbus")
	b.serve(nimbus)
	b.token(nimbus)
	cli := func(args ...string) []string {
		return append([]string{nimbus, "--token-file", "/srv/nimbus/admin.token"}, args...)
	}

	first := b.install(nimbus, "agent", "install", "--json", "--join-token-file", "/srv/join.token", "--images", images, "--warm", "0")
	for _, f := range first.Files {
		if f.Change != "new" {
			t.Errorf("%s is %s", f.Path, f.Change)
		}
	}
	var job jobView
	out := b.must(cli("run", "--json", "--no-files", "--detach", "--network", "none", "--", "sh", "-c", "echo begun; sleep 20; echo done")...)
	if err := json.Unmarshal([]byte(out), &job); err != nil {
		t.Fatal(err)
	}
	id := job.Job.ID
	await(t, microVMStart, "the job has begun", func() bool {
		out, _ := b.command(cli("logs", id)...).Output()
		return strings.Contains(string(out), "begun")
	})
	if err := b.command(nimbus, "agent", "uninstall").Run(); err == nil {
		t.Error("it is taken away while a job runs")
	}

	b.must("sh", "-c", "cp "+nimbus+" /srv/newer && echo >> /srv/newer")
	second := b.install("/srv/newer", "agent", "install", "--json", "--cpus", "2")
	changes := map[string]string{}
	for _, f := range second.Files {
		changes[f.Path] = f.Change
	}
	if second.Agent.PID == first.Agent.PID || changes["/usr/local/bin/nimbus"] != "changed" || changes["/etc/nimbus/agent.env"] != "changed" ||
		changes["/etc/systemd/system/nimbus-agent.service"] != "unchanged" {
		t.Errorf("the upgrade: %+v, before it %+v", second, first.Agent)
	}
	if settings := b.must("cat", "/etc/nimbus/agent.env"); !strings.Contains(settings, "NIMBUS_IMAGES=") || !strings.Contains(settings, `NIMBUS_CPUS="2"`) {
		t.Errorf("settings after the upgrade:\n%s", settings)
	}

	b.must("systemctl", "kill", "--signal", "KILL", "--kill-whom", "main", "nimbus-agent")
	await(t, time.Minute, "systemd starts it again", func() bool {
		out, _ := b.command("systemctl", "show", "--property", "MainPID,ActiveState", "nimbus-agent").Output()
		return strings.Contains(string(out), "ActiveState=active") && !strings.Contains(string(out), "MainPID="+second.Agent.PID+"\n")
	})
	await(t, microVMEnd, "the job ends", func() bool {
		return strings.Contains(b.must(cli("job", id, "--json")...), `"state":"finished"`)
	})
	var ended jobView
	if err := json.Unmarshal([]byte(b.must(cli("job", id, "--json")...)), &ended); err != nil {
		t.Fatal(err)
	}
	if log := b.must(cli("logs", id)...); ended.Job.Result != "success" || ended.Job.AttemptCount != 1 || log != "begun\ndone\n" {
		t.Errorf("the job over an upgrade and a kill: %+v, log %q", ended.Job, log)
	}

	await(t, time.Minute, "the job's network is gone", func() bool {
		out, err := b.command("ip", "netns", "list").CombinedOutput()
		return err == nil && len(out) == 0
	})
	if said := b.must("journalctl", "--no-pager", "--unit", "nimbus-agent"); strings.Contains(said, "level=ERROR") || strings.Contains(said, "not permitted") {
		t.Errorf("the agent complains:\n%s", said)
	}

	await(t, time.Minute, "it is taken away", func() bool { return b.command(nimbus, "agent", "uninstall", "--purge").Run() == nil })
	if out, err := b.command("systemctl", "cat", "nimbus-agent").CombinedOutput(); err == nil {
		t.Errorf("the unit is there:\n%s", out)
	}
	if out, _ := b.command("ls", "/var/lib/nimbus", "/etc/nimbus").Output(); strings.Contains(string(out), "agent") {
		t.Errorf("left behind: %s", out)
	}
}

// TestInstallWithoutRights: an agent that only runs commands is a user that may
// do nothing.
func TestInstallWithoutRights(t *testing.T) {
	b := boot(t, bin)
	nimbus := filepath.Join(bin, "nimbus")
	b.serve(nimbus)
	b.token(nimbus)
	v := b.install(nimbus, "agent", "install", "--json", "--join-token-file", "/srv/join.token", "--executors", "local")
	status := b.must("cat", "/proc/"+v.Agent.PID+"/status")
	for _, want := range []string{"CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(status, want) {
			t.Errorf("not %q:\n%s", want, status)
		}
	}
	uid := strings.TrimSpace(b.must("id", "-u", "nimbus"))
	out := b.must(nimbus, "--token-file", "/srv/nimbus/admin.token", "run", "--executor", "local", "--no-files", "--", "cat", "/proc/self/uid_map")
	if who := strings.Fields(out); len(who) < 3 || !slices.Contains(who, uid) {
		t.Errorf("a job, whose root should be user %s, has the users %q", uid, out)
	}
}
