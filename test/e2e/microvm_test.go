package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/images/docker"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/imagetest"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// Emulated machines on a busy host take their time.
const (
	microVMStart = 6 * time.Minute
	microVMEnd   = 2 * time.Minute
)

// microVMs starts `nimbus up` on a host whose jobs get microVMs and nothing
// else. None waits for a job: it would be there when all jobs have ended.
func (m *machine) microVMs(t *testing.T, images string) *program {
	t.Helper()
	p := m.start(t, "", "up", "--executors", "microvm", "--warm", "0", "--images", images, "--listen", m.addr, "--log-level", "debug")
	m.awaitReady(t, p)
	return p
}

func requireMicroVMs(t *testing.T) (images string) {
	t.Helper()
	testenv.Require(t, "root", "qemu", "nft", "mke2fs")
	return imagetest.Runner(t).Dir
}

// TestMainJob is the demo: GitHub's double sends a workflow's jobs by signed
// webhooks, each runs in a microVM of its own, and nothing is left.
func TestMainJob(t *testing.T) {
	images := requireMicroVMs(t)
	m := newMachine(t)
	before := networks(t)
	demo := m.start(t, "", "up", "--demo", "--json", "--executors", "microvm", "--images", images)
	if code := demo.wait(microVMStart); code != 0 {
		t.Fatalf("the demo ended with %d", code)
	}
	var shown demoOutcome
	if err := json.Unmarshal([]byte(demo.stdout.String()), &shown); err != nil {
		t.Fatal(err)
	}
	ended := map[string]string{}
	for _, j := range shown.Jobs {
		ended[j.Name] = j.Result
	}
	if len(shown.Jobs) != 3 || ended["build"] != "success" || ended["lint"] != "success" || ended["broken"] != "failure" || len(shown.Problems) > 0 {
		t.Errorf("got %+v", shown)
	}
	checkNetworks(t, before)
}

// TestMicroVMRestart stops `nimbus up` twice while a job runs in a microVM:
// told to stop, it lets the machine go on and takes it over at the next start;
// killed and not started again, the machine's shim ends it.
func TestMicroVMRestart(t *testing.T) {
	images := requireMicroVMs(t)
	m := newMachine(t)
	before := networks(t)
	up := m.microVMs(t, images)
	project := t.TempDir()
	if err := os.WriteFile(filepath.Join(project, "greeting"), []byte("hello from the working tree\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, code := m.nimbus(t, project, "run", "--detach", "--", "bash", "-c",
		"cat greeting; i=0; while :; do i=$((i+1)); echo line $i; sleep 0.2; done")
	if code != 0 {
		t.Fatalf("run: %d\n%s", code, stderr)
	}
	id := strings.TrimSpace(stdout)
	follow := m.start(t, t.TempDir(), "logs", "-f", id)
	await(t, microVMStart, "the log comes", func() bool { return strings.Contains(follow.stdout.String(), "line 10\n") })
	if !strings.HasPrefix(follow.stdout.String(), "hello from the working tree\n") {
		t.Errorf("the log begins with %.100q", follow.stdout.String())
	}

	if code := up.signal(syscall.SIGTERM); code != 0 {
		t.Errorf("up ended with %d", code)
	}
	if len(processes(t, filepath.Join(m.data, "agent")+"/")) == 0 {
		t.Fatal("the machine ended with the agent")
	}
	read := len(follow.stdout.String())
	up = m.microVMs(t, images)
	await(t, microVMEnd, "the log goes on", func() bool { return len(follow.stdout.String()) > read+100 })

	up.signal(syscall.SIGKILL)
	await(t, microVMEnd, "the shim has ended the machine", func() bool {
		return len(processes(t, filepath.Join(m.data, "agent")+"/")) == 0
	})
	up = m.microVMs(t, images)
	await(t, microVMEnd, "the job is over", func() bool { return m.job(t, id).Job.State == "finished" })
	if j := m.job(t, id); j.Job.Result != "lost" || j.Job.AttemptCount != 1 {
		t.Errorf("the job: %+v, %+v", j.Job, j.Events)
	}
	checkGone(t, m.data)
	checkNetworks(t, before)
	up.signal(syscall.SIGTERM)
}

// TestMicroVMUnknownImage asks for an image that no host has.
func TestMicroVMUnknownImage(t *testing.T) {
	images := requireMicroVMs(t)
	m := newMachine(t)
	m.microVMs(t, images)
	_, stderr, code := m.nimbus(t, t.TempDir(), "run", "--no-files", "--image", "no-such-image", "--", "true")
	if code == 0 || !strings.Contains(stderr, "no-such-image") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	checkGone(t, m.data)
}

// TestMicroVMDocker has a job build an image with the docker of its own machine,
// push it to the registry of its org and pull it again, with nothing set up for it.
func TestMicroVMDocker(t *testing.T) {
	testenv.Require(t, "root", "qemu", "nft", "mke2fs")
	images := imagetest.Docker(t).Dir
	m := newMachine(t)
	m.microVMs(t, images)
	m.must(t, "registry", "rules", "team/app", "--push-from", "-")
	stdout, stderr, code := m.nimbus(t, "testdata/docker", "run", "--image", docker.Name, "--memory", "768", "--", "sh", "./images")
	if want := "pulled job\nelsewhere denied\nnobody unauthorized\n"; code != 0 || stdout != want {
		t.Errorf("the job ended with %d and said %q, want %q\n%s", code, stdout, want, stderr)
	}
	if shown := m.must(t, "registry", "ls", "team/app"); !strings.Contains(shown, "sha256:") {
		t.Errorf("the registry has %s", shown)
	}
	if _, stderr, code := m.nimbus(t, "", "registry", "ls", "default/team/app"); code == 0 || !strings.Contains(stderr, "without the org") {
		t.Errorf("a repository with its org in its name: %d, %s", code, stderr)
	}
}

// networks are the network namespaces of sandboxes on this machine.
func networks(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob("/run/netns/nimbus-nb*")
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// checkNetworks tells that there are none but those of before, of which some may have
// gone by now: a machine of an earlier test was still being taken down.
func checkNetworks(t *testing.T, before []string) {
	t.Helper()
	await(t, microVMEnd, "the network namespaces are gone", func() bool {
		return !slices.ContainsFunc(networks(t), func(n string) bool { return !slices.Contains(before, n) })
	})
}

// TestMicroVMShell opens terminals in a microVM: beside a job that writes its
// log all the while, and after one has failed.
func TestMicroVMShell(t *testing.T) {
	images := requireMicroVMs(t)
	m := newMachine(t)
	up := m.microVMs(t, images)
	t.Cleanup(func() { up.signal(syscall.SIGTERM) }) // with the machines that wait
	id := strings.TrimSpace(m.must(t, "run", "--detach", "--no-files", "--env", "OF=the job", "--", "sh", "-c",
		"i=0; while [ ! -e /tmp/go ]; do i=$((i+1)); echo line $i; sleep 0.05; done; exit 4"))
	follow := m.start(t, t.TempDir(), "logs", "-f", id)
	await(t, microVMStart, "the log comes", func() bool { return strings.Contains(follow.stdout.String(), "line 10\n") })

	p := m.sit(t, "shell", id)
	p.types("PS1='at-$((n=n+1)) '; tty; stty size; echo $OF\r")
	p.sees("/dev/pts/0")
	p.sees("33 101")
	p.sees("the job")
	p.types("yes | head -c 3000000 | tail -n 1; echo flood-''is-over\r")
	p.sees("flood-is-over")
	p.types("sh -c 'echo be\"\"gun; exec sleep 1000'\r")
	p.sees("begun") // by who has the terminal: before that an interrupt is the shell's
	p.types("\x03")
	p.sees("at-3 ") // what is typed before is dropped with the line, or taken for the end of input
	p.types("exit 5\r")
	if code := p.wait(microVMEnd); code != 5 {
		t.Errorf("the terminal ended with %d", code)
	}
	flood := m.start(t, t.TempDir(), "shell", id, "--", "cat", "/dev/zero")
	await(t, microVMEnd, "the flood comes", func() bool { return len(flood.stdout.String()) > 1<<20 })
	shown := len(follow.stdout.String())
	await(t, microVMEnd, "the log goes on beside it", func() bool { return len(follow.stdout.String()) > shown+200 })
	flood.signal(syscall.SIGKILL)
	m.nimbus(t, t.TempDir(), "shell", id, "--", "touch", "/tmp/go") // the job may end before it, and it with the job
	if code := follow.wait(microVMEnd); code != 0 {
		t.Errorf("logs -f ended with %d", code)
	}
	if got := m.job(t, id); got.Job.ExitCode == nil || *got.Job.ExitCode != 4 {
		t.Errorf("the job: %+v", got.Job)
	}
	_, stderr, code := m.nimbus(t, t.TempDir(), "run", "--no-files", "--hold", "10m", "--", "sh", "-c", "echo left > behind; exit 3")
	if code != 3 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	if got := m.must(t, "shell", "last", "--", "cat", "behind"); got != "left\n" {
		t.Errorf("in the held machine there is %q", got)
	}
	m.must(t, "release", "last")
	checkGone(t, m.data)
}
