package cli

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/nimbus-ci/nimbus/internal/forge/githubtest"
)

// connectOrg connects the double's App, and has its owner grant what runners of
// the organisation take.
func (c connected) connectOrg(t *testing.T) {
	t.Helper()
	c.connectApp(t)
	c.double.Grant(map[string]string{"actions": "write", "administration": "write", "checks": "write", "contents": "read", "metadata": "read", "organization_self_hosted_runners": "write"})
	c.double.AddRepository("octo-org", "web")
}

func (c connected) ok(t *testing.T, args ...string) string {
	t.Helper()
	code, out, errs := c.now(t, args...)
	if code != ExitOK {
		t.Fatalf("%v: %d %s%s", args, code, out, errs)
	}
	return out
}

func (c connected) refused(t *testing.T, says string, args ...string) {
	t.Helper()
	if code, _, errs := c.now(t, args...); code == ExitOK || !strings.Contains(errs, says) {
		t.Errorf("%v: %d %s, want %q", args, code, errs, says)
	}
}

func TestGitHubRunners(t *testing.T) {
	t.Parallel()
	c := startConnected(t)
	c.refused(t, "no connected GitHub App", "github", "runners", "set", "2002", "organization")
	c.connectOrg(t)
	c.refused(t, "enterprise", "github", "runners", "set", "2002", "enterprise")
	c.refused(t, "no scope", "github", "runners", "set", "2002", "galaxy")
	c.refused(t, "no runner groups", "github", "runners", "set", "2002", "repository", "--group", "builders")
	c.refused(t, "no runner group", "github", "runners", "set", "2002", "organization", "--group", "nobody")
	c.refused(t, "404", "github", "runners", "set", "17", "organization")
	if out := c.ok(t, "github", "runners", "list", "--json"); out != "{\"places\":[]}\n" {
		t.Errorf("at first: %s", out)
	}
	if out := c.ok(t, "github", "runners", "set", "2002", "organization", "--group", "builders", "--json"); !strings.Contains(out, `"organization":"octo-org","group":"builders"`) {
		t.Errorf("set: %s", out)
	}
	if out := c.ok(t, "github", "runners", "list"); !strings.Contains(out, "octo-org") {
		t.Errorf("list: %s", out)
	}
	c.ok(t, "github", "runners", "set", "2002", "repository")
	if out := c.ok(t, "github", "runners", "list", "--json"); out != "{\"places\":[]}\n" {
		t.Errorf("back at repositories: %s", out)
	}
	c.recorded(t, "github_runners.place")
}

// TestScaleSetBehindNAT: a server that GitHub can't reach hears of a job by a
// scale set.
func TestScaleSetBehindNAT(t *testing.T) {
	t.Parallel()
	c := startConnected(t)
	c.connectOrg(t)
	c.double.Subscribe()
	c.refused(t, "is missing", "github", "scale-set", "add", "2002", "big")
	c.refused(t, "no name", "github", "scale-set", "add", "2002", "a b", "--label", "nimbus")
	c.refused(t, "allowed is 1 to 10000", "github", "scale-set", "add", "2002", "x", "--label", "nimbus", "--max-runners", "20000")
	c.refused(t, "could not run", "github", "scale-set", "add", "2002", "x", "--label", "nimbus", "--label", "x64", "--label", "arm64")
	out := c.ok(t, "github", "scale-set", "add", "2002", "nimbus", "--json")
	var added struct {
		Set scaleSetView `json:"scale_set"`
	}
	if err := json.Unmarshal([]byte(out), &added); err != nil || added.Set.ID == "" || added.Set.MaxRunners != 100 || len(added.Set.Labels) != 1 {
		t.Fatalf("%s: %v", out, err)
	}
	c.refused(t, "already", "github", "scale-set", "add", "2002", "Nimbus")

	_, err := c.double.Push(t.Context(), "octo-org/web", fstest.MapFS{".github/workflows/ci.yml": {Data: []byte("on: push\njobs:\n  a:\n    runs-on: [nimbus]\n    steps: [{run: echo}]\n")}})
	if err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	late := time.After(time.Minute)
	for !strings.Contains(c.ok(t, "jobs"), "job_") || !strings.Contains(c.ok(t, "github", "scale-set", "list"), "heard at") {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("the job is not heard of: %s%s", c.ok(t, "github", "scale-set", "list"), c.ok(t, "jobs"))
		}
	}
	c.ok(t, "github", "scale-set", "remove", added.Set.ID)
	c.refused(t, "no scale set", "github", "scale-set", "remove", added.Set.ID)
	if len(c.double.ScaleSets()) != 0 {
		t.Error("it is still at GitHub")
	}
	c.recorded(t, "github_runners.add_scale_set", "github_runners.remove_scale_set")
}

// TestScaleSetsGoWithTheirApp, and so does with whom its runners are registered;
// a connected one begins without any. GitHub need not hear of it.
func TestScaleSetsGoWithTheirApp(t *testing.T) {
	t.Parallel()
	for name, gone := range map[string]bool{"GitHub answers": false, "GitHub is out of reach": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startConnected(t)
			c.connectOrg(t)
			c.ok(t, "github", "scale-set", "add", "2002", "nimbus")
			c.ok(t, "github", "runners", "set", "2002", "organization")
			if gone {
				c.double.Refuse(githubtest.Refusal{Times: -1, Status: http.StatusBadGateway})
			}
			c.ok(t, "github", "remove", "1001")
			c.double.Accept()
			if left := len(c.double.ScaleSets()); left != 0 && !gone {
				t.Errorf("%d scale sets are left at GitHub", left)
			}
			if out := c.ok(t, "github", "scale-set", "list", "--json"); out != "{\"scale_sets\":[]}\n" {
				t.Errorf("scale sets are left: %s", out)
			}
			if out := c.ok(t, "github", "runners", "list", "--json"); out != "{\"places\":[]}\n" {
				t.Errorf("places are left: %s", out)
			}
			c.recorded(t, "github_runners.remove_scale_set", "github_runners.place", "github_app.remove")
			c.refused(t, "not connected", "github", "remove", "1001")
		})
	}
}

// recorded demands that the platform's chain has entries of some actions.
func (c connected) recorded(t *testing.T, actions ...string) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	late := time.After(time.Minute)
	for _, action := range actions {
		for !strings.Contains(c.ok(t, "audit", "list", "--platform", "--action", action), action) {
			select {
			case <-tick.C: // the ledger is chained in batches
			case <-late:
				t.Fatalf("%s is not in the ledger: %s", action, c.ok(t, "audit", "list", "--platform"))
			}
		}
	}
}
