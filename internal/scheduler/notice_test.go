package scheduler_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

// ShowCheck keeps what GitHub would show: the last of each check run.
func (g *github) ShowCheck(_ context.Context, _ nimbus.GitHubJob, c nimbus.Check) (int64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.told++
	if g.err != nil {
		return 0, g.err
	}
	if c.ID == 0 {
		g.checks = append(g.checks, c)
		return int64(len(g.checks)), nil
	}
	if c.ID > int64(len(g.checks)) {
		return 0, nimbus.Errorf(nimbus.CodeNotFound, "no such check run")
	}
	g.checks[c.ID-1] = c
	return c.ID, nil
}

// shown are the check runs as lines.
func (g *github) shown() (out []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.checks {
		out = append(out, string(c.Conclusion)+" "+c.Name+" "+c.Title)
	}
	return out
}

func (w *world) shows(want ...string) {
	w.t.Helper()
	w.must(scheduler.AskForge(w.Service, w.t.Context()))
	if diff := cmp.Diff(want, w.github.shown()); diff != "" {
		w.t.Fatalf("check runs (-want +got):\n%s", diff)
	}
}

const cannot, went, fault = "Nimbus can't run this job", "The job went on", "The job did not run to its end, by no fault of its own"

func TestThePusherIsTold(t *testing.T) {
	eachEngine(t, scheduler.Config{PublicURL: "https://nimbus.example.com/"}, func(t *testing.T, w *world) {
		// Labels that mean nothing are told at once.
		w.deliver(w.event(1, nimbus.ForgeQueued, labelled("nimbus", "cpu:lots")))
		w.shows("action_required Nimbus: job 1 " + cannot)
		c := w.github.checks[0]
		if !strings.Contains(c.Summary, "cpu:lots") || !strings.Contains(c.Summary, "runs-on") || !strings.HasPrefix(c.URL, "https://nimbus.example.com/jobs/job_") {
			t.Errorf("it says %+v", c)
		}
		told := w.github.told
		w.pass(time.Hour)
		w.shows("action_required Nimbus: job 1 " + cannot)
		if w.github.told != told {
			t.Error("it is told again and again")
		}

		// A host that is missing is told only when it stays so, and taken back
		// once there is one.
		w.host(nimbus.ExecutorLocal) // which webhook jobs may not have
		w.deliver(w.event(2, nimbus.ForgeQueued))
		w.shows("action_required Nimbus: job 1 " + cannot)
		w.pass(time.Minute)
		w.shows("action_required Nimbus: job 1 "+cannot, "action_required Nimbus: job 2 "+cannot)
		host := w.host()
		w.must(scheduler.ReviewAll(w.Service, t.Context()))
		w.shows("action_required Nimbus: job 1 "+cannot, "neutral Nimbus: job 2 "+went)

		// A fault that isn't the job's own is told; a failure of its own isn't.
		a := w.runner(host)
		w.deliver(w.event(2, nimbus.ForgeInProgress, by(a.AttemptID)))
		w.pass(time.Minute)      // its host is silent
		w.pass(10 * time.Second) // and GitHub knows no better
		w.expect(a.JobID, nimbus.StateFinished, nimbus.ResultLost)
		w.shows("action_required Nimbus: job 1 "+cannot, "failure Nimbus: job 2 "+fault)
		host = w.host()
		w.deliver(w.event(3, nimbus.ForgeQueued))
		b := w.runner(host)
		w.deliver(w.event(3, nimbus.ForgeInProgress, by(b.AttemptID)))
		w.deliver(w.event(3, nimbus.ForgeCompleted, by(b.AttemptID), concluded("failure")))
		w.shows("action_required Nimbus: job 1 "+cannot, "failure Nimbus: job 2 "+fault)
	})
}

func TestTellingIsTriedAgain(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		w.github.fail(nimbus.Errorf(nimbus.CodeUnavailable, "GitHub is down"))
		w.deliver(w.event(1, nimbus.ForgeQueued, labelled("nimbus", "cpu:lots")))
		w.shows()
		w.shows()
		if w.github.told != 1 {
			t.Errorf("it was tried %d times at once", w.github.told)
		}
		w.pass(time.Minute)
		w.shows()
		w.github.fail(nil)
		w.pass(10 * time.Minute)
		w.shows("action_required Nimbus: job 1 " + cannot)

		// What the owner does not allow is given up, and said in the history.
		w.github.fail(nimbus.Errorf(nimbus.CodeForbidden, "Resource not accessible by integration"))
		w.deliver(w.event(2, nimbus.ForgeQueued, labelled("nimbus", "memory:none")))
		w.shows("action_required Nimbus: job 1 " + cannot)
		told := w.github.told
		w.pass(24 * time.Hour / 2)
		w.shows("action_required Nimbus: job 1 " + cannot)
		if w.github.told != told {
			t.Error("what is forbidden is tried again")
		}
		page, err := w.Jobs(t.Context(), nimbus.DefaultOrgID, scheduler.JobFilter{})
		w.must(err)
		events, err := w.Events(t.Context(), nimbus.DefaultOrgID, page.Jobs[0].ID)
		w.must(err)
		if last := events[len(events)-1]; last.Kind != "not_told" || !strings.Contains(last.Detail, "not accessible") {
			t.Errorf("its history ends with %+v", last)
		}
	})
}

func TestNativeJobsAreNoBusinessOfGitHubs(t *testing.T) {
	eachEngine(t, scheduler.Config{}, func(t *testing.T, w *world) {
		w.submit(nimbus.Spec{Command: []string{"true"}})
		w.pass(time.Hour)
		w.shows()
	})
}
