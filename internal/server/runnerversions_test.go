package server

import (
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// TestRunnersStand: the check of doctor, a month and a half in advance to a day
// after.
func TestRunnersStand(t *testing.T) {
	t.Parallel()
	out := time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC)
	known := nimbus.RunnerReleases{Releases: []nimbus.RunnerRelease{{Version: "2.338.0", PublishedAt: out}, {Version: "2.337.0", PublishedAt: out.AddDate(0, 0, -20)}}}
	host := func(name, version string) nimbus.Host {
		return nimbus.Host{Name: name, Inventory: nimbus.Inventory{RunnerVersion: version}}
	}
	const day = 24 * time.Hour
	for name, tt := range map[string]struct {
		hosts  []nimbus.Host
		known  nimbus.RunnerReleases
		after  time.Duration
		status nimbus.CheckStatus
		says   string
		hint   string
	}{
		"no hosts":     {known: known, status: nimbus.CheckWarns, says: "no host has joined", hint: "nimbus hosts token lets one join"},
		"the stand-in": {hosts: []nimbus.Host{host("a", "")}, known: known, status: nimbus.CheckWarns, says: "no host has GitHub's own runner in its image: only jobs of the double of GitHub can run", hint: "on a host that reaches github.com: nimbus images build --official always"},
		"the latest":   {hosts: []nimbus.Host{host("a", "2.338.0"), host("b", "")}, known: known, status: nimbus.CheckGood, says: "hosts have the latest, 2.338.0"},
		"one is behind": {hosts: []nimbus.Host{host("a", "2.338.0"), host("b", "2.337.0")}, known: known, after: 12 * day, status: nimbus.CheckWarns, hint: buildHint,
			says: "the latest is 2.338.0; 2.337.0 (b): a newer one is out since 12 days, and GitHub gives it no jobs in 18 days, from 2026-10-31 on"},
		"the last day": {hosts: []nimbus.Host{host("b", "2.337.0")}, known: known, after: 30*day - time.Minute, status: nimbus.CheckWarns, hint: buildHint,
			says: "the latest is 2.338.0; 2.337.0 (b): a newer one is out since 29 days, and GitHub gives it no jobs in less than a day, from 2026-10-31 on"},
		"refused": {hosts: []nimbus.Host{host("b", "2.337.0")}, known: known, after: 30 * day, status: nimbus.CheckFails, hint: buildHint,
			says: "the latest is 2.338.0; 2.337.0 (b): a newer one is out since 30 days, and GitHub gives it no jobs any more"},
		"refused since the one before": {hosts: []nimbus.Host{host("c", "2.336.0"), host("b", "2.337.0")}, known: known, after: 11 * day, status: nimbus.CheckFails, hint: buildHint,
			says: "the latest is 2.338.0; 2.336.0 (c): a newer one is out since 31 days, and GitHub gives it no jobs any more; 2.337.0 (b): a newer one is out since 11 days, and GitHub gives it no jobs in 19 days, from 2026-10-31 on"},
		"an Enterprise Server": {hosts: []nimbus.Host{host("b", "2.337.0")}, known: nimbus.RunnerReleases{CheckedAt: out}, status: nimbus.CheckGood, says: "hosts have 2.337.0; this server tells of no releases of the runner, its release notes do"},
		"not learnt":           {hosts: []nimbus.Host{host("b", "2.337.0")}, known: nimbus.RunnerReleases{Trouble: "it is down"}, status: nimbus.CheckWarns, says: "hosts have 2.337.0; whether that is recent is not known: it is down", hint: "look at https://github.com/actions/runner/releases"},
		"many hosts": {hosts: []nimbus.Host{host("a", "2.337.0"), host("b", "2.337.0"), host("c", "2.337.0"), host("d", "2.337.0"), host("e", "2.337.0"), host("f", "2.337.0"), host("g", "2.337.0")},
			known: known, after: day, status: nimbus.CheckWarns, hint: buildHint,
			says: "the latest is 2.338.0; 2.337.0 (a, b, c, d, e and 2 more): a newer one is out since 1 day, and GitHub gives it no jobs in 29 days, from 2026-10-31 on"},
	} {
		status, detail, hint := runnersStand(tt.hosts, tt.known, out.Add(tt.after))
		if status != tt.status || detail != tt.says || hint != tt.hint {
			t.Errorf("%s: %s %q (%q)\nwant %s %q (%q)", name, status, detail, hint, tt.status, tt.says, tt.hint)
		}
	}
}
