package actions

import (
	"fmt"
	"slices"

	"github.com/nimbus-ci/nimbus"
)

// forkScopes begins the scopes of pull requests whose number is not known. No ref
// of GitHub's begins so.
const forkScopes = "nimbus/pull/"

// Scopes are where a job of a run may save to, "" for nowhere, and where it reads,
// in order, as GitHub has it: a branch its own and the default branch, a pull
// request its own, its base and the default branch. What is not known, or may be
// begun by others in the name of the default branch, saves nowhere; why says so.
func Scopes(o nimbus.RunOrigin) (write string, read []string, why string) {
	usual := branchScope(o.DefaultBranch)
	switch o.Event {
	case "push", "schedule", "workflow_dispatch", "repository_dispatch", "merge_group":
		if o.OnBranch && o.HeadBranch != "" {
			write = branchScope(o.HeadBranch)
			return write, scopeList(write, usual), ""
		}
		return "", scopeList(usual), unsure(o.Unsure)
	case "pull_request":
		switch {
		case o.Pull > 0:
			write = fmt.Sprintf("refs/pull/%d/merge", o.Pull)
		case o.HeadRepo != "" && o.HeadBranch != "":
			write = forkScopes + o.HeadRepo + "/" + o.HeadBranch
		default:
			return "", scopeList(usual), "GitHub does not tell of which pull request the run is"
		}
		return write, scopeList(write, branchScope(o.BaseBranch), usual), ""
	}
	return "", scopeList(usual), fmt.Sprintf("runs of the event %.50q only read the cache", o.Event)
}

func unsure(why string) string {
	if why == "" {
		why = "GitHub does not tell of which branch the run is"
	}
	return why
}

func branchScope(branch string) string {
	if branch == "" {
		return ""
	}
	return "refs/heads/" + branch
}

// scopeList leaves out what is not known, and what comes twice.
func scopeList(scopes ...string) []string {
	var out []string
	for _, s := range scopes {
		if s != "" && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}
