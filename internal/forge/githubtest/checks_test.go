package githubtest_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	nimbus "github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/forge/githubtest"
)

func TestShowCheck(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	job := w.event(w.push(project(oneJob)).Jobs[0].ID).Job
	c := nimbus.Check{Name: "Nimbus: ci / build", Conclusion: nimbus.CheckActionRequired, Title: "Nimbus can't run this job",
		Summary: "Why. " + strings.Repeat("ü", 70000), URL: "https://nimbus.example.com/jobs/job_1"}
	id, err := w.app.ShowCheck(w.ctx, job, c)
	if err != nil || id == 0 {
		t.Fatal(id, err)
	}
	c.ID, c.Conclusion, c.Title, c.Summary = id, nimbus.CheckNeutral, "The job went on", "What kept it is gone."
	if again, err := w.app.ShowCheck(w.ctx, job, c); err != nil || again != id {
		t.Errorf("changed: %d %v", again, err)
	}
	want := []githubtest.CheckRun{{ID: id, Name: c.Name, HeadSHA: job.HeadSHA, Conclusion: "neutral", Title: c.Title, Summary: c.Summary, Link: c.URL}}
	if diff := cmp.Diff(want, w.CheckRuns(), cmpopts.IgnoreFields(githubtest.CheckRun{}, "Repo")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	c.ID = 404
	_, err = w.app.ShowCheck(w.ctx, job, c)
	code(t, err, nimbus.CodeNotFound, "Not Found")
	w.Grant(map[string]string{"checks": "read"})
	c.ID = 0
	_, err = w.app.ShowCheck(w.ctx, job, c)
	code(t, err, nimbus.CodeForbidden, "not accessible")
	job.HeadSHA = ""
	_, err = w.app.ShowCheck(w.ctx, job, c)
	code(t, err, nimbus.CodeInvalid, "commit")
}
