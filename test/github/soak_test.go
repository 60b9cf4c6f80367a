package github_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/forge/githubtest"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// Times of the soak. Jobs come during the first two hours, and for two hours of
// these the control plane is away.
const (
	tick     = 5 * time.Second
	coarse   = time.Minute // while Nimbus is away
	leaves   = 30 * time.Minute
	away     = 2 * time.Hour
	arriving = 100 * time.Minute
	atMost   = 14 * time.Hour // until all has ended
)

// figures are what a soak found; it prints them as one line.
type figures struct {
	Suite       string  `json:"suite"`
	Engine      string  `json:"engine"`
	Seed        uint64  `json:"seed"`
	Jobs        int     `json:"jobs"`
	Succeeded   int     `json:"succeeded"`
	Stolen      int     `json:"stolen"`
	Lost        int     `json:"lost_as_injected"`
	Unheard     int     `json:"jobs_not_known_at_rest"`
	Another     int     `json:"runners_that_got_another_job"`
	Runners     int     `json:"runners"`
	Webhooks    counts  `json:"webhooks"`
	Redelivered int     `json:"redelivered"`
	Calls       int     `json:"api_calls"`
	MostInHour  int     `json:"most_core_calls_in_an_hour"`
	CoreLimit   int     `json:"core_limit"`
	MostPoints  int     `json:"most_points_in_a_minute"`
	Recovery    string  `json:"recovery_after_two_hours_away"`
	Simulated   string  `json:"simulated"`
	Took        float64 `json:"took_s"`
}

// TestSoak: whatever GitHub and the network do, every job runs once or is told
// to be lost for the reason that was injected, and no limit is overdrawn.
//
// NIMBUS_SOAK_JOBS and NIMBUS_SOAK_SEED make it another one; a seed decides what
// goes wrong.
func TestSoak(t *testing.T) {
	jobs := setting(t, "NIMBUS_SOAK_JOBS", 300)
	seed := uint64(setting(t, "NIMBUS_SOAK_SEED", 1))
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		soak(t, "sqlite:"+filepath.Join(t.TempDir(), "nimbus.db"), jobs, seed)
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		soak(t, testenv.Postgres(t), max(jobs/3, 1), seed+1)
	})
}

func soak(t *testing.T, dsn string, jobs int, seed uint64) {
	limits := githubtest.GitHubLimits()
	limits.Core = max(400, jobs)
	w := newWorld(t, dsn, seed, limits)
	began := time.Now()
	for range 4 {
		w.host(max(8, jobs/40))
	}
	w.trouble()
	back, recovered, unheard := w.play(t.Context(), jobs)
	f := w.judge()
	f.Unheard = unheard
	f.Engine, _, _ = strings.Cut(dsn, ":")
	f.CoreLimit = limits.Core
	f.Recovery, f.Simulated = recovered.Sub(back).String(), w.now.Sub(w.begun).String()
	f.Took = time.Since(began).Round(10 * time.Millisecond).Seconds()
	line, err := json.Marshal(f)
	w.must(err)
	fmt.Println(string(line))
}

func setting(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q is no number", name, text)
	}
	return n
}

// play plays the story to its end: back is when Nimbus was there again, and
// recovered when everything had ended that came until then. It is over when
// Nimbus knows what its runners did: a job of which no webhook was ever sent may
// begin and end on a runner that was meant for another, and is only found in
// GitHub's lists, when there are calls to spare for those of runs that are over.
func (w *world) play(ctx context.Context, jobs int) (back, recovered time.Time, unheard int) {
	pushed, old := 0, 0
	for w.now.Sub(w.begun) < atMost {
		since := w.now.Sub(w.begun)
		down := since >= leaves && since < leaves+away
		if w.down.Swap(down) && !down {
			back, old = w.now, pushed
		}
		for due := int(float64(jobs) * min(1, since.Minutes()/arriving.Minutes())); pushed < due; {
			pushed += w.push(ctx, pushed, min(1+int(w.chance("matrix", pushed)*8), jobs-pushed))
		}
		w.steal()
		if down {
			w.step(ctx, coarse)
			continue
		}
		w.step(ctx, tick)
		if !back.IsZero() && recovered.IsZero() && w.ended() >= old {
			recovered = w.now
		}
		if pushed < jobs || w.ended() < jobs || w.askedAt != w.now || !w.settled(ctx) {
			continue
		}
		left := w.unheard()
		unheard = max(unheard, left)
		if left == 0 {
			break
		}
	}
	return back, recovered, unheard
}

// unheard is how many jobs runners of ours had that are not in Nimbus' books.
func (w *world) unheard() (n int) {
	known := w.known()
	for _, j := range w.AllJobs() {
		if _, ok := known[j.ID]; !ok && w.Starts(j.ID) > 0 {
			n++
		}
	}
	return n
}

// known are the jobs in Nimbus' books, by GitHub's ids.
func (w *world) known() map[int64]nimbus.Job {
	w.t.Helper()
	known := map[int64]nimbus.Job{}
	for token := ""; ; {
		p, err := w.plane.Jobs(w.t.Context(), nimbus.DefaultOrgID, scheduler.JobFilter{PageSize: 200, PageToken: token})
		w.must(err)
		for _, j := range p.Jobs {
			if other, twice := known[j.GitHub.JobID]; twice {
				w.t.Errorf("jobs %s and %s are the same one of GitHub's", j.ID, other.ID)
			}
			known[j.GitHub.JobID] = j
		}
		if token = p.NextPageToken; token == "" {
			return known
		}
	}
}

// push pushes a run of so many jobs to one of a few repositories.
func (w *world) push(ctx context.Context, serial, jobs int) int {
	w.t.Helper()
	var yaml strings.Builder
	yaml.WriteString("on: push\njobs:\n")
	for i := range jobs {
		labels := "[nimbus]"
		if w.chance("labels", serial, i) < 0.2 {
			labels = `[nimbus, "cpu:2", "memory:2"]`
		}
		fmt.Fprintf(&yaml, "  j%d:\n    runs-on: %s\n    steps: [{run: echo}]\n", i, labels)
	}
	repo := fmt.Sprintf("octo/repo%d", int(w.chance("repo", serial)*5))
	_, err := w.Push(ctx, repo, fstest.MapFS{".github/workflows/ci.yml": {Data: []byte(yaml.String())}})
	w.must(err)
	return jobs
}

// steal has runners that are not ours take some of the jobs, and end them.
func (w *world) steal() {
	for _, j := range w.AllJobs() {
		switch {
		case w.chance("stolen", j.ID) >= 0.04:
		case j.Status == "queued" && w.now.Sub(j.CreatedAt) > time.Duration(w.chance("theft", j.ID)*float64(2*time.Minute)):
			if w.Steal(j.ID, "somebody-else") == nil {
				w.suffer(j.ID, "another runner took it")
			}
		case j.Status == "in_progress" && j.RunnerName == "somebody-else" && w.now.Sub(j.StartedAt) > time.Minute:
			w.must(w.FinishStolen(j.ID, "success"))
		}
	}
}

// suffer remembers what was done to a job.
func (w *world) suffer(job int64, what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fate[job] = what
}

// ended is how many of GitHub's jobs are over.
func (w *world) ended() (n int) {
	for _, j := range w.AllJobs() {
		if j.Status == "completed" {
			n++
		}
	}
	return n
}

// settled tells whether nothing is left at Nimbus, its hosts and GitHub.
func (w *world) settled(ctx context.Context) bool {
	for _, h := range w.hosts {
		if len(h.sandboxes) > 0 {
			return false
		}
	}
	open, err := w.plane.Jobs(ctx, nimbus.DefaultOrgID, scheduler.JobFilter{PageSize: 1, States: []nimbus.State{
		nimbus.StatePending, nimbus.StateQueued, nimbus.StateOffered, nimbus.StateAccepted, nimbus.StateRunning, nimbus.StateUnschedulable,
	}})
	w.must(err)
	return len(open.Jobs) == 0 && len(w.Runners()) == 0
}

// judge looks at every job of GitHub's and at what Nimbus knows of it.
func (w *world) judge() figures {
	w.t.Helper()
	known := w.known()
	used := w.Usage()
	f := figures{Suite: "github-soak", Seed: w.seed, Webhooks: w.sent, Calls: used.Calls, MostInHour: used.MostInHour, MostPoints: used.MostPoints,
		Redelivered: w.Calls("apps/redeliver-webhook-delivery")}
	for _, h := range w.hosts {
		f.Runners, f.Another = f.Runners+h.runners, f.Another+h.another
	}
	for _, j := range w.AllJobs() {
		f.Jobs++
		w.judgeOne(&f, j, known)
	}
	for name, n := range used.Over {
		w.t.Errorf("GitHub's limit of %s was overdrawn %d times", name, n)
	}
	for _, v := range w.Violations() {
		w.t.Errorf("violation: %s", v)
	}
	for _, r := range w.Runners() {
		w.t.Errorf("runner %s is left at GitHub", r.Name)
	}
	if !w.settled(w.t.Context()) {
		w.t.Error("it has not come to rest")
	}
	return f
}

func (w *world) judgeOne(f *figures, j githubtest.Job, known map[int64]nimbus.Job) {
	w.t.Helper()
	ours, have := known[j.ID]
	fate := w.fate[j.ID]
	bad := func() {
		w.t.Errorf("seed %d: job %d (%q) is %s %s at GitHub, begun %d times; at Nimbus %s %s %s: %s (%s)", w.seed, j.ID, fate, j.Status,
			j.Conclusion, w.Starts(j.ID), ours.ID, ours.State, ours.Result, ours.Reason.Code, ours.Reason.Message)
	}
	begun := w.Starts(j.ID)
	switch {
	case j.Status != "completed" || have && ours.State != nimbus.StateFinished:
		bad()
	case j.RunnerName == "somebody-else":
		f.Stolen++
		// It may be that Nimbus never heard of it.
		if begun != 0 || have && (ours.Result != nimbus.ResultCancelled || ours.Reason.Code != nimbus.ReasonRanElsewhere) {
			bad()
		}
	case fate != "":
		f.Lost++
		if begun != 1 || !have || j.Conclusion != "failure" || ours.Result != nimbus.ResultLost && ours.Result != nimbus.ResultFailure {
			bad()
		}
	default:
		f.Succeeded++
		if begun != 1 || !have || j.Conclusion != "success" || ours.Result != nimbus.ResultSuccess {
			bad()
		}
	}
}
