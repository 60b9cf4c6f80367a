package server

import (
	"testing"

	"github.com/nimbus-ci/nimbus"
)

// TestWhoseWorkAJobRuns: only a run whose head is of its own repository is trusted to
// push images, whatever event began it.
func TestWhoseWorkAJobRuns(t *testing.T) {
	t.Parallel()
	for name, of := range map[string]struct {
		repo     string
		origin   nimbus.RunOrigin
		stranger bool
	}{
		"a push":                        {"Acme/Web", nimbus.RunOrigin{Event: "push", HeadRepo: "acme/web"}, false},
		"a branch's pull request":       {"acme/web", nimbus.RunOrigin{Event: "pull_request", HeadRepo: "acme/web", Pull: 7}, false},
		"a fork's pull request":         {"acme/web", nimbus.RunOrigin{Event: "pull_request", HeadRepo: "evil/web"}, true},
		"a fork's, with the secrets":    {"acme/web", nimbus.RunOrigin{Event: "pull_request_target", HeadRepo: "evil/web"}, true},
		"a run after a fork's":          {"acme/web", nimbus.RunOrigin{Event: "workflow_run", HeadRepo: "evil/web"}, true},
		"a fork that is gone":           {"acme/web", nimbus.RunOrigin{Event: "pull_request"}, true},
		"a repository that can't be so": {"web", nimbus.RunOrigin{Event: "push", HeadRepo: "web"}, true},
		"a name that begins like it":    {"acme/web", nimbus.RunOrigin{Event: "push", HeadRepo: "acme/web2"}, true},
	} {
		if got := workOf(of.repo, of.origin); got.Repo != of.repo || (got.Stranger != "") != of.stranger {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
