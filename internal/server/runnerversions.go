package server

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/demand"
	"github.com/nimbus-ci/nimbus/internal/forge"
)

// hostLister tells which hosts there are.
type hostLister interface {
	Hosts(ctx context.Context) ([]nimbus.Host, error)
}

// mostNamed is how many hosts a check names.
const mostNamed = 5

// buildHint is what makes a host's runner a newer one.
const buildHint = "on each of these hosts: nimbus images build, of a release of Nimbus that has a newer runner; or nimbus images build --runner-version VERSION --runner-sha256 DIGEST, as on the release's page at GitHub has it"

// RunnerReleases implements httpapi.GitHub.
func (g *gitHub) RunnerReleases(ctx context.Context) ([]nimbus.RunnerReleases, error) {
	return g.places.RunnerReleases(ctx)
}

// releaseLook asks GitHub for releases where none were learnt for a day.
func (g *gitHub) releaseLook() *demand.Releases {
	return &demand.Releases{GitHub: g.forge, Store: g.places, Log: g.log}
}

// runners tells, for the API of an App, how the runners of the hosts stand.
func (g *gitHub) runners(ctx context.Context, app *forge.App) nimbus.GitHubCheck {
	out := nimbus.GitHubCheck{AppID: app.ID(), Name: "runner", Status: nimbus.CheckFails}
	// Whether it could be learnt is kept with what was.
	if err := g.releaseLook().Look(ctx); err != nil {
		g.log.InfoContext(ctx, "the releases of GitHub's runner were not learnt", "error", err)
	}
	hosts, err := g.hosts.Hosts(ctx)
	if err != nil {
		out.Detail = fmt.Sprintf("the hosts can't be read: %v", err)
		return out
	}
	all, err := g.places.RunnerReleases(ctx)
	if err != nil {
		out.Detail = fmt.Sprintf("the releases of GitHub's runner can't be read: %v", err)
		return out
	}
	known := nimbus.RunnerReleases{APIURL: app.APIURL()}
	if i := slices.IndexFunc(all, func(r nimbus.RunnerReleases) bool { return r.APIURL == known.APIURL }); i >= 0 {
		known = all[i]
	}
	out.Status, out.Detail, out.Hint = runnersStand(hosts, known, g.clock.Now())
	return out
}

// runnersStand is how the runners of hosts stand against releases, in words.
// What is worst decides.
func runnersStand(hosts []nimbus.Host, known nimbus.RunnerReleases, now time.Time) (status nimbus.CheckStatus, detail, hint string) {
	by := map[string][]string{} // names by version
	for _, h := range hosts {
		if v := h.Inventory.RunnerVersion; v != "" {
			by[v] = append(by[v], h.Name)
		}
	}
	versions := slices.Sorted(maps.Keys(by))
	switch {
	case len(hosts) == 0:
		return nimbus.CheckWarns, "no host has joined", "nimbus hosts token lets one join"
	case len(versions) == 0:
		return nimbus.CheckWarns, "no host has GitHub's own runner in its image: only jobs of the double of GitHub can run", "on a host that reaches github.com: nimbus images build --official always"
	case len(known.Releases) == 0 && known.Trouble != "":
		return nimbus.CheckWarns, fmt.Sprintf("hosts have %s; whether that is recent is not known: %s", strings.Join(versions, ", "), known.Trouble), "look at https://github.com/actions/runner/releases"
	case len(known.Releases) == 0:
		return nimbus.CheckGood, fmt.Sprintf("hosts have %s; this server tells of no releases of the runner, its release notes do", strings.Join(versions, ", ")), ""
	}
	status = nimbus.CheckGood
	var behind []string
	for _, v := range versions {
		s := known.Standing(v)
		if s.NewerSince.IsZero() {
			continue
		}
		status = nimbus.CheckWarns
		behind = append(behind, fmt.Sprintf("%s (%s): %s", v, named(by[v]), s.Says(now)))
	}
	if len(behind) == 0 {
		return status, "hosts have the latest, " + strings.Join(versions, ", "), ""
	}
	for _, v := range versions {
		if at := known.Standing(v).RefusedAt; !at.IsZero() && !now.Before(at) {
			status = nimbus.CheckFails
		}
	}
	return status, "the latest is " + known.Standing("").Latest + "; " + strings.Join(behind, "; "), buildHint
}

// named are names, not too many of them.
func named(names []string) string {
	if len(names) > mostNamed {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:mostNamed], ", "), len(names)-mostNamed)
	}
	return strings.Join(names, ", ")
}
