package host_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/library"
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
	cfg := host.Config{
		Data: dir, DockerHost: "unix://" + d.Socket, Executors: []string{nimbus.ExecutorDocker}, Programs: programsInPath, Log: logger(t),
		Containers: library.Config{Policy: library.Policy{Deny: []string{"*/secret*"}}}, WarmContainers: 1, WarmMemoryMiB: 256,
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
	j = p.awaitFor(t, time.Minute, job("image:nimbus.test/secret:1", "true").ID, "finished", over)
	if j.Reason.Code != nimbus.ReasonImageNotFound || !strings.Contains(j.Reason.Message, "denied") {
		t.Errorf("an image that is denied: %s, %+v", j.Result, j.Reason)
	}

	j = job(tools, "trap 'echo ending; exit 0' TERM; echo waiting; while :; do sleep 0.1; done")
	p.awaitFor(t, time.Minute, j.ID, "running", func(j nimbus.Job) bool { return j.LogLines > 0 })
	stop()
	startConfigured(t, p, cfg)
	_, err := p.scheduler.Cancel(t.Context(), nimbus.Principal{Kind: nimbus.PrincipalAdmin, Subject: "admin"}, nimbus.DefaultOrgID, j.ID)
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
