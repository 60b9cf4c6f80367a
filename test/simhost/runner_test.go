package simhost_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/nimbus-ci/nimbus/internal/forge/githubtest"
	"github.com/nimbus-ci/nimbus/internal/server"
	"github.com/nimbus-ci/nimbus/test/simhost"
)

// double is GitHub, whose jobs all take as long.
type double struct {
	*githubtest.Server
	work time.Duration
}

func (d double) Connect(jit string) (simhost.Runner, error) {
	c, err := d.Server.Connect(jit)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (d double) Work(int64) time.Duration { return d.work }

// newDouble starts one that takes a job's runner for dead once it was silent for
// so long, which a busy machine may make one that lives; 0 is as long as GitHub waits.
func newDouble(t *testing.T, work, silence time.Duration) (double, *plane) {
	t.Helper()
	s, err := githubtest.Start(githubtest.Config{JobLease: silence})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	d := double{s, work}
	p := newPlaneOf(t, &server.GitHub{AppID: s.AppID(), PrivateKey: s.PrivateKey(), WebhookSecrets: [][]byte{s.WebhookSecret()}, URL: s.URL()})
	p.github = d
	s.SetWebhook(p.url + "/webhooks/github")
	return d, p
}

// push makes a run of so many jobs.
func (d double) push(t *testing.T, jobs int) int64 {
	t.Helper()
	var yaml strings.Builder
	yaml.WriteString("on: push\njobs:\n")
	for i := range jobs {
		fmt.Fprintf(&yaml, "  j%d:\n    runs-on: [nimbus]\n    steps: [{run: echo}]\n", i)
	}
	runs, err := d.Push(t.Context(), "octo/a", fstest.MapFS{".github/workflows/ci.yml": {Data: []byte(yaml.String())}})
	if err != nil {
		t.Fatal(err)
	}
	return runs[0]
}

func (d double) over(t *testing.T, run int64, conclusion string) func() bool {
	return func() bool {
		r, ok := d.Run(run)
		if ok && r.Status == "completed" && r.Conclusion != conclusion {
			t.Fatalf("it ended as %s", r.Conclusion)
		}
		return r.Status == "completed"
	}
}

func TestMachineRunsJobsOfGitHub(t *testing.T) {
	t.Parallel()
	d, p := newDouble(t, 150*time.Millisecond, 0)
	r := &simhost.Records{}
	m := p.machine(r)
	const jobs = 3
	p.await("the run succeeds", d.over(t, d.push(t, jobs), "success"))
	p.await("the machine is idle", m.Idle)
	ran := map[int64]bool{}
	for _, e := range r.Executions() {
		ran[e.GitHubJob] = true
		if e.End != simhost.EndDone || !e.Acknowledged || len(e.Live) != 1 || e.Live[0].To.Sub(e.Live[0].From) < d.work {
			t.Errorf("%+v", e)
		}
	}
	if len(ran) != jobs || ran[0] {
		t.Errorf("ran: %v", ran)
	}
	if left := d.Runners(); len(left) != 0 {
		t.Errorf("left: %+v", left)
	}
}

func TestRunnerObeysGitHub(t *testing.T) {
	t.Parallel()
	d, p := newDouble(t, time.Hour, 0)
	r := &simhost.Records{}
	m := p.machine(r)
	run := d.push(t, 1)
	p.await("the job runs", living(r))
	if err := d.CancelRun(run); err != nil {
		t.Fatal(err)
	}
	p.await("the run is cancelled", d.over(t, run, "cancelled"))
	p.await("the machine is idle", m.Idle)
	if e := r.Executions()[0]; e.End != simhost.EndDropped {
		t.Errorf("%+v", e)
	}
}

func TestRunnerDiesWithItsMachine(t *testing.T) {
	t.Parallel()
	d, p := newDouble(t, time.Hour, 5*time.Second)
	r := &simhost.Records{}
	m := p.machine(r)
	run := d.push(t, 1)
	p.await("the job runs", living(r))
	m.LosePower()
	p.await("GitHub misses it", d.over(t, run, "failure"))
	if e := r.Executions()[0]; e.End != simhost.EndCrashed {
		t.Errorf("%+v", e)
	}
}
