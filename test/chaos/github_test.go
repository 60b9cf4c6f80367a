package chaos

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"testing/fstest"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/forge/githubtest"
	"github.com/nimbus-ci/nimbus/test/simhost"
)

const (
	// silence is how long GitHub waits for a word of a job's runner: longer than
	// a lease, as its ten minutes are.
	silence = nimbus.LeaseDuration + 5*time.Second
	// latest is by how much a webhook may be late.
	latest = 2 * time.Second
)

// gitHub is the double, as machines' runners reach it.
type gitHub struct {
	*githubtest.Server
	t *testing.T
}

func startGitHub(t *testing.T) gitHub {
	t.Helper()
	s, err := githubtest.Start(githubtest.Config{JobLease: silence})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return gitHub{s, t}
}

// flags are those of a server that knows the App.
func (g gitHub) flags(dir string) []string {
	g.t.Helper()
	key, secret := filepath.Join(dir, "app.pem"), filepath.Join(dir, "webhook.secret")
	for path, content := range map[string][]byte{key: g.PrivateKey(), secret: g.WebhookSecret()} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			g.t.Fatal(err)
		}
	}
	return []string{"--github-app-id", strconv.FormatInt(g.AppID(), 10), "--github-key-file", key,
		"--github-webhook-secret-file", secret, "--github-url", g.URL()}
}

// Connect implements simhost.GitHub.
func (g gitHub) Connect(jit string) (simhost.Runner, error) {
	c, err := g.Server.Connect(jit)
	if err != nil {
		return nil, err // not a nil pointer in an interface
	}
	return c, nil
}

// Work implements simhost.GitHub: a job is called after what it takes.
func (g gitHub) Work(jobID int64) time.Duration {
	j, err := g.WaitJob(context.Background(), jobID, func(githubtest.Job) bool { return true })
	if err != nil {
		g.t.Error(err)
	}
	d, err := time.ParseDuration(j.Name)
	if err != nil {
		g.t.Error(err)
	}
	return d
}

// disorder has some webhooks come twice, and some late, so that they overtake
// each other. Those that are lost are lost on the way to the replicas.
func (g gitHub) disorder(seed uint64) {
	r := rand.New(rand.NewPCG(seed, 3))
	g.PlanDeliveries(func(githubtest.Delivery) githubtest.Plan {
		p := githubtest.Plan{Copies: 1}
		switch r.IntN(8) {
		case 0:
			p.Copies = 2
		case 1:
			p.Delay = between(r, 0, latest)
		}
		return p
	})
}

// push makes a job at GitHub, which tells Nimbus of it.
func (g gitHub) push(ctx context.Context, s *submitted, serial int, work, wait time.Duration) {
	workflow := fmt.Sprintf("on: push\njobs:\n  work:\n    name: %v\n    runs-on: [nimbus]\n    steps: [{run: echo}]\n", work)
	runs, err := g.Push(ctx, fmt.Sprintf("octo/repo%d", serial%3), fstest.MapFS{".github/workflows/ci.yml": {Data: []byte(workflow)}})
	if err != nil || len(runs) != 1 {
		g.t.Errorf("%d runs, %v", len(runs), err)
		return
	}
	run, _ := g.Run(runs[0])
	s.github = run.Jobs[0].ID
	if s.cancelled {
		rest(ctx, wait)
		_ = g.CancelRun(runs[0]) // it may be over
	}
}

// restless tells what is still to come of GitHub's jobs. One that was cancelled
// there before its webhooks got through need not be known.
func (g gitHub) restless(books map[int64]entry) (unknown, inProgress, runners int) {
	for _, j := range g.AllJobs() {
		if _, known := books[j.ID]; !known && j.Status != "completed" {
			unknown++
		}
		if j.Status == "in_progress" {
			inProgress++
		}
	}
	return unknown, inProgress, len(g.Runners())
}

// entry is what the books say of a job of GitHub's.
type entry struct {
	id, attempt, reason string
	state               nimbus.State
	result              nimbus.Result
}

// gitHubBooks are the entries by GitHub's ids.
func (w *world) gitHubBooks() (map[int64]entry, error) {
	books := map[int64]entry{}
	const question = "SELECT github_job_id, id, attempt_id, reason_code, state, result FROM jobs WHERE github_job_id <> 0"
	return books, w.db.rows(question, func(r *sql.Rows) error {
		var id int64
		var e entry
		err := r.Scan(&id, &e.id, &e.attempt, &e.reason, &e.state, &e.result)
		books[id] = e
		return err
	})
}

// checkGitHub holds what the books say of GitHub's jobs against GitHub, and
// both against what the machines saw.
func (w *world) checkGitHub(jobs []*submitted, v *verdict) error {
	books, err := w.gitHubBooks()
	if err != nil {
		return err
	}
	ran := map[int64][]simhost.Execution{}
	for _, e := range w.records.Executions() {
		if e.GitHubJob != 0 {
			ran[e.GitHubJob] = append(ran[e.GitHubJob], e)
		}
	}
	theirs := map[int64]githubtest.Job{}
	for _, j := range w.github.AllJobs() {
		theirs[j.ID] = j
	}
	for _, s := range jobs {
		if s.github == 0 {
			continue
		}
		v.FromGitHub++
		seen := ran[s.github]
		if len(seen) > 1 || w.github.Starts(s.github) > 1 {
			v.blame(&v.Twice, "job %d of GitHub's ran %d times: %s", s.github, len(seen), describe(seen))
		}
		v.endedAtGitHub(s, theirs[s.github], books[s.github], seen)
	}
	for _, r := range w.github.Runners() {
		v.blame(&v.Leaked, "runner %s is left at GitHub: %+v", r.Name, r)
	}
	for _, violation := range w.github.Violations() {
		v.blame(&v.Illegal, "GitHub's description is violated: %s", violation)
	}
	v.Runners = w.github.Calls("actions/generate-runner-jitconfig-for-repo")
	v.Redelivered = w.github.Calls("apps/redeliver-webhook-delivery")
	v.Undelivered = len(slices.DeleteFunc(w.github.Deliveries(), func(d githubtest.Delivery) bool { return d.StatusCode/100 == 2 }))
	return nil
}

// endedAtGitHub holds how a job ended in the books against how it did at GitHub
// and on the machine that had it, if one had.
func (v *verdict) endedAtGitHub(s *submitted, theirs githubtest.Job, ours entry, seen []simhost.Execution) {
	if ours.id == "" && s.cancelled && theirs.Conclusion == "cancelled" && len(seen) == 0 {
		v.Unheard++
		return
	}
	v.Results[ours.result]++
	ok := false
	switch ours.result {
	case nimbus.ResultSuccess:
		ok = theirs.Conclusion == "success" && len(seen) == 1 && seen[0].End == simhost.EndDone && seen[0].AttemptID == ours.attempt
	case nimbus.ResultCancelled:
		ok = s.cancelled && theirs.Conclusion == "cancelled"
	case "": // no attempt got it to begin, and GitHub holds it
		if ours.state == nimbus.StateUnschedulable && ours.reason == string(nimbus.ReasonAttemptsUsed) && len(seen) == 0 && theirs.Status == "queued" {
			return
		}
	case nimbus.ResultFailure, nimbus.ResultLost: // its machine did not bring it to its end
		ok = len(seen) == 1 && seen[0].End != simhost.EndDone && theirs.Conclusion == "failure"
	}
	if ours.state != nimbus.StateFinished || !ok {
		v.blame(&v.Lost, "job %d of GitHub's (cancelled %v) is %s %q there, and %+v here; its machines saw %s",
			s.github, s.cancelled, theirs.Status, theirs.Conclusion, ours, describe(seen))
	}
}
