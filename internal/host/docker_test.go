package host_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/docker"
	"github.com/nimbus-ci/nimbus/internal/executor/docker/runnerkit/runnerkittest"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/library"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot"
	"github.com/nimbus-ci/nimbus/internal/forge/githubtest"
	"github.com/nimbus-ci/nimbus/internal/host"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// TestDocker takes jobs through a host that offers containers: the labels lead
// there, what the image sets is in the job's environment, a new agent takes a
// container over, a want of memory and an image that is not allowed are told, and
// nothing is left.
func TestDocker(t *testing.T) {
	testenv.Require(t, "root", "dockerd", "nft", "mke2fs")
	d := testenv.DockerWith(t, "--live-restore")
	must(t, d.Image("nimbus.test/tools", "1", "ENV LESSON=image"))
	p, dir := startPlane(t), t.TempDir()
	empties := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(empties.Close)
	registry := strings.TrimPrefix(empties.URL, "http://")
	mirrors, err := library.NewMirrors(map[string]string{registry: registry + "/acme/copies"})
	must(t, err)
	cfg := host.Config{
		Data: dir, DockerHost: "unix://" + d.Socket, Executors: []string{nimbus.ExecutorDocker}, Programs: programsInPath, Log: logger(t),
		Containers: library.Config{
			Policy: library.Policy{Allow: []string{"*", registry + "/*"}, Deny: []string{"*/secret*"}}, Mirrors: mirrors,
		},
		WarmContainers: 1, WarmMemoryMiB: 256,
	}
	stop := startConfigured(t, p, cfg)
	job := func(label, script string) nimbus.Job {
		req, err := nimbus.ParseLabels([]string{"nimbus", "docker", "network:none", label})
		must(t, err)
		return p.submit(t, "", func(s *scheduler.Submission) {
			s.Class = req.Class
			s.Spec.Command = []string{"sh", "-c", script}
		})
	}
	const tools = "image:nimbus.test/tools:1"
	j := p.awaitFor(t, time.Minute, job(tools, "echo $LESSON $PWD; exit 3").ID, "finished", over)
	if got := p.log(t, j); j.Class.Executor != nimbus.ExecutorDocker || j.ExitCode == nil || *j.ExitCode != 3 || got != "image /workspace\n" {
		t.Errorf("%s, %+v, log %q", j.Result, j.Reason, got)
	}
	j = p.awaitFor(t, time.Minute, job(tools, "head -c 4G /dev/zero | tail -n 1 | wc -c; exit 1").ID, "finished", over)
	if j.Reason.Code != nimbus.ReasonLimit {
		t.Errorf("want of memory: %s, %+v, log %q", j.Result, j.Reason, p.log(t, j))
	}
	if j.Usage.CPUTime == 0 || j.Usage.PeakMemoryBytes < 100<<20 {
		t.Errorf("it used %+v", j.Usage)
	}
	j = p.awaitFor(t, time.Minute, job("image:nimbus.test/secret:1", "true").ID, "finished", over)
	if j.Reason.Code != nimbus.ReasonImageNotFound || !strings.Contains(j.Reason.Message, "denied") {
		t.Errorf("an image that is denied: %s, %+v", j.Result, j.Reason)
	}
	j = p.awaitFor(t, time.Minute, job("image:"+registry+"/tools:1", "true").ID, "finished", over)
	if got := p.log(t, j); j.Reason.Code != nimbus.ReasonImageNotFound || strings.Count(got, "the mirror "+registry+" does not give image") != 1 {
		t.Errorf("an image that neither its registry nor the mirror has: %s, %+v, log %q", j.Result, j.Reason, got)
	}

	j = job(tools, "trap 'echo ending; exit 0' TERM; echo waiting; while :; do sleep 0.1; done")
	p.awaitFor(t, time.Minute, j.ID, "running", func(j nimbus.Job) bool { return j.LogLines > 0 })
	stop()
	startConfigured(t, p, cfg)
	_, err = p.scheduler.Cancel(t.Context(), nimbus.Principal{Kind: nimbus.PrincipalAdmin, Subject: "admin"}, nimbus.DefaultOrgID, j.ID)
	must(t, err)
	j = p.awaitFor(t, time.Minute, j.ID, "finished", over)
	if j.Result != nimbus.ResultCancelled || !strings.Contains(p.log(t, j), "\nending\n") {
		t.Errorf("%s, %+v, log %q", j.Result, j.Reason, p.log(t, j))
	}
	empty(t, dir)
}

// TestDockerIsNamed: containers share the machine's kernel, so who names no
// executors offers none.
func TestDockerIsNamed(t *testing.T) {
	t.Parallel()
	executors, err := host.Executors(host.Config{Data: t.TempDir(), Programs: programsInPath, Log: logger(t)})
	must(t, err)
	for _, e := range executors {
		if e.Name() == nimbus.ExecutorDocker {
			t.Error("it is offered by default")
		}
	}
}

// TestGitHubsJobsInContainers takes jobs of GitHub's to images of musl's: the
// runner comes beside them and steps use what they have. Where it can't, the job
// is told why, and GitHub never hears of a runner.
func TestGitHubsJobsInContainers(t *testing.T) {
	testenv.Require(t, "root", "dockerd", "nft", "mke2fs")
	d := testenv.DockerWith(t, "--live-restore")
	runnerkittest.Musl(t, d, "nimbus.test/musl", "1", "ENV LESSON=musl")
	runnerkittest.Bare(t, d, "nimbus.test/bare", "1")
	const port = 9100
	var registered atomic.Int64
	run := func(t *testing.T, image string, images string) (nimbus.Job, *plane) {
		p := startPlane(t, githubtest.Config{RunnerURL: "http://" + net.JoinHostPort(docker.GatewayName, strconv.Itoa(port))})
		p.github.PlanCalls(func(operation string) *githubtest.Refusal {
			if strings.Contains(operation, "jitconfig") {
				registered.Add(1)
			}
			return nil
		})
		double, err := url.Parse(p.github.URL())
		must(t, err)
		startConfigured(t, p, host.Config{
			Data: t.TempDir(), Images: images, DockerHost: "unix://" + d.Socket, Executors: []string{nimbus.ExecutorDocker},
			Programs: programsInPath, Log: logger(t), Relays: []netslot.Relay{{Port: port, Target: double.Host}},
		})
		p.push(t, fstest.MapFS{".github/workflows/ci.yml": &fstest.MapFile{Data: []byte(`
on: push
jobs:
  work:
    runs-on: [nimbus, docker, "image:` + image + `", "network:none"]
    steps:
      - name: Work
        run: tool && echo $LESSON
`)}})
		return p.awaitFor(t, 2*time.Minute, p.onlyJob(t).ID, "finished or held", func(j nimbus.Job) bool {
			return over(j) || j.State == nimbus.StateUnschedulable
		}), p
	}
	prepared := runnerkittest.Image(t, "").Dir
	for name, c := range map[string]struct{ image, images, why string }{
		"no runner": {"nimbus.test/musl:1", t.TempDir(), "nimbus images build"},
		"no shell":  {"nimbus.test/bare:1", prepared, "has no /bin/sh"},
	} {
		registered.Store(0)
		j, p := run(t, c.image, c.images)
		if j.Reason.Code != nimbus.ReasonImageNotFound || !strings.Contains(j.Reason.Message, c.why) || j.AttemptCount != 1 || registered.Load() != 0 {
			t.Errorf("%s: %s, %+v after %d attempts, %d runners registered\n%s", name, j.State, j.Reason, j.AttemptCount, registered.Load(), p.log(t, j))
		}
		p.violations(t)
	}
	registered.Store(0)
	j, p := run(t, "nimbus.test/musl:1", prepared)
	if log := p.log(t, j); j.Result != nimbus.ResultSuccess || registered.Load() != 1 || !strings.Contains(log, "a tool of musl\n") || !strings.Contains(log, "musl\n") {
		t.Errorf("%s, %+v, %d runners registered\n%s", j.Result, j.Reason, registered.Load(), log)
	}
	p.violations(t)
}
