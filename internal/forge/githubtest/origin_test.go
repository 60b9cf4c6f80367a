package githubtest_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	nimbus "github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/forge/githubtest"
)

// one is a project with one job, and another commit for each n.
func one(n int) fstest.MapFS {
	return fstest.MapFS{
		".github/workflows/ci.yml": &fstest.MapFile{Data: []byte("on: push\njobs:\n  a:\n    runs-on: [nimbus]\n    steps: [{run: echo}]\n")},
		"n":                        &fstest.MapFile{Data: fmt.Append(nil, n)},
	}
}

// TestRunOrigin asks what runs came from, of all the ways in which they come.
func TestRunOrigin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	commit := 0
	as := func(o githubtest.Origin) nimbus.GitHubJob {
		t.Helper()
		commit++
		ids, err := w.PushAs(w.ctx, "octo-org/hello", one(commit), o)
		if err != nil {
			t.Fatal(err)
		}
		run, _ := w.Run(ids[0])
		return w.event(run.Jobs[0].ID).Job
	}
	asked := func(job nimbus.GitHubJob) nimbus.RunOrigin {
		t.Helper()
		o, err := w.app.RunOrigin(w.ctx, job)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	const own = "octo-org/hello"
	first := as(githubtest.Origin{})
	for name, c := range map[string]struct {
		from githubtest.Origin
		want nimbus.RunOrigin
	}{
		"a branch":       {githubtest.Origin{Branch: "topic/a"}, nimbus.RunOrigin{Event: "push", HeadBranch: "topic/a", HeadRepo: own, DefaultBranch: "main", OnBranch: true}},
		"a pull request": {githubtest.Origin{Event: "pull_request", Branch: "topic/a", Pull: 7}, nimbus.RunOrigin{Event: "pull_request", HeadBranch: "topic/a", HeadRepo: own, DefaultBranch: "main", Pull: 7, BaseBranch: "main"}},
		"a fork's main":  {githubtest.Origin{Event: "pull_request", Fork: "Mallory/hello", Pull: 8}, nimbus.RunOrigin{Event: "pull_request", HeadBranch: "main", HeadRepo: "mallory/hello", DefaultBranch: "main"}},
		"another's main": {githubtest.Origin{Event: "workflow_run", Fork: "mallory/hello"}, nimbus.RunOrigin{Event: "workflow_run", HeadBranch: "main", HeadRepo: "mallory/hello", DefaultBranch: "main"}},
		"a control char": {githubtest.Origin{Branch: "a\x01b"}, nimbus.RunOrigin{Event: "push", HeadRepo: own, DefaultBranch: "main"}},
		"a long name":    {githubtest.Origin{Branch: strings.Repeat("a", 300)}, nimbus.RunOrigin{Event: "push", HeadRepo: own, DefaultBranch: "main"}},
	} {
		if got := asked(as(c.from)); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
	// Main was pushed to once, and the first commit is one of its.
	as(githubtest.Origin{})
	if got := asked(first); !got.OnBranch {
		t.Errorf("an older commit of main: %+v", got)
	}
	// A tag by the name of a branch is not the branch, be it there or gone.
	tagged := as(githubtest.Origin{Branch: "main", Tag: true})
	if got := asked(tagged); got.OnBranch || !strings.Contains(got.Unsure, "tag") {
		t.Errorf("a tag that is called main: %+v", got)
	}
	w.DeleteTag(own, "main")
	if got := asked(tagged); got.OnBranch || got.Unsure == "" {
		t.Errorf("a tag that was called main: %+v", got)
	}
	if got := asked(as(githubtest.Origin{Branch: "v1", Tag: true})); got.OnBranch || got.Unsure == "" {
		t.Errorf("a tag: %+v", got)
	}
	// Without the right to look, nothing is a branch.
	w.Grant(map[string]string{"metadata": "read", "actions": "write", "administration": "write"})
	if got := asked(first); got.OnBranch || !strings.Contains(got.Unsure, "contents:read") {
		t.Errorf("without contents:read: %+v", got)
	}
	w.Refuse(githubtest.Refusal{Operation: "actions/get-workflow-run", Status: 503, Times: -1})
	_, err := w.app.RunOrigin(w.ctx, first)
	code(t, err, nimbus.CodeUnavailable, "read a run")
}
