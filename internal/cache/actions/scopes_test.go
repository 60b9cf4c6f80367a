package actions_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache/actions"
)

// TestScopes has each kind of run, and who would like to be taken for another.
func TestScopes(t *testing.T) {
	t.Parallel()
	branch := func(name string) nimbus.RunOrigin {
		return nimbus.RunOrigin{Event: "push", HeadBranch: name, HeadRepo: "acme/web", DefaultBranch: "main", OnBranch: true}
	}
	with := func(o nimbus.RunOrigin, edit func(*nimbus.RunOrigin)) nimbus.RunOrigin { edit(&o); return o }
	event := func(name string) nimbus.RunOrigin {
		return with(branch("main"), func(o *nimbus.RunOrigin) { o.Event = name })
	}
	fork := nimbus.RunOrigin{Event: "pull_request", HeadBranch: "main", HeadRepo: "mallory/web", DefaultBranch: "main"}
	const main = "refs/heads/main"
	for name, c := range map[string]struct {
		from  nimbus.RunOrigin
		write string
		read  []string
	}{
		"main":       {branch("main"), main, []string{main}},
		"a topic":    {branch("topic"), "refs/heads/topic", []string{"refs/heads/topic", main}},
		"a schedule": {event("schedule"), main, []string{main}},
		"a queue":    {with(branch("gh-readonly-queue/main/pr-1"), func(o *nimbus.RunOrigin) { o.Event = "merge_group" }), "refs/heads/gh-readonly-queue/main/pr-1", []string{"refs/heads/gh-readonly-queue/main/pr-1", main}},
		"a pull request": {nimbus.RunOrigin{Event: "pull_request", HeadBranch: "topic", HeadRepo: "acme/web", DefaultBranch: "main", Pull: 7, BaseBranch: "release"},
			"refs/pull/7/merge", []string{"refs/pull/7/merge", "refs/heads/release", main}},
		"a fork's main":         {fork, "nimbus/pull/mallory/web/main", []string{"nimbus/pull/mallory/web/main", main}},
		"a fork that is gone":   {with(fork, func(o *nimbus.RunOrigin) { o.HeadRepo = "" }), "", []string{main}},
		"maybe a tag":           {with(branch("main"), func(o *nimbus.RunOrigin) { o.OnBranch, o.Unsure = false, "a tag has the branch's name" }), "", []string{main}},
		"no name":               {with(branch(""), func(*nimbus.RunOrigin) {}), "", []string{main}},
		"pull_request_target":   {event("pull_request_target"), "", []string{main}},
		"issue_comment":         {event("issue_comment"), "", []string{main}},
		"workflow_run":          {event("workflow_run"), "", []string{main}},
		"issues":                {event("issues"), "", []string{main}},
		"fork":                  {event("fork"), "", []string{main}},
		"watch":                 {event("watch"), "", []string{main}},
		"discussion":            {event("discussion"), "", []string{main}},
		"an event of next year": {event("anything"), "", []string{main}},
		"nothing known":         {nimbus.RunOrigin{Event: "push"}, "", nil},
	} {
		write, read, why := actions.Scopes(c.from)
		if write != c.write || !cmp.Equal(read, c.read) || (why == "") != (write != "") {
			t.Errorf("%s: saves to %q and reads %q (%s), want %q and %q", name, write, read, why, c.write, c.read)
		}
		if strings.HasPrefix(write, "refs/") != (write != "" && c.from.HeadRepo == "acme/web") {
			t.Errorf("%s saves to %q", name, write)
		}
	}
}
