package forge_test

import (
	"log/slog"
	"net/http"
	"testing"
	"time"

	nimbus "github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/forge"
	"github.com/nimbus-ci/nimbus/internal/forge/githubtest"
)

// movable is a clock that a test moves.
type movable struct{ now time.Time }

func (c *movable) Now() time.Time { return c.now }

func startDouble(t *testing.T, appID, installation int64) (*githubtest.Server, *forge.App) {
	t.Helper()
	double, err := githubtest.Start(githubtest.Config{AppID: appID, InstallationID: installation})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(double.Close)
	app, err := forge.NewApp(forge.AppConfig{AppID: appID, PrivateKey: double.PrivateKey(), BaseURL: double.URL()})
	if err != nil {
		t.Fatal(err)
	}
	return double, app
}

// TestJobsGoThroughTheirOwnApp: of several Apps the one is called whose
// installation the job came from; GitHub is asked whose that is, seldom.
func TestJobsGoThroughTheirOwnApp(t *testing.T) {
	t.Parallel()
	one, appOne := startDouble(t, 11, 110)
	two, appTwo := startDouble(t, 22, 220)
	clock := &movable{now: time.Unix(1e9, 0)}
	apps := forge.NewApps(clock, slog.New(slog.DiscardHandler))
	job := func(installation int64) nimbus.GitHubJob {
		return nimbus.GitHubJob{InstallationID: installation, Owner: "octo-org", Repo: "not-there", JobID: 1}
	}
	status := func(installation int64) nimbus.Code {
		_, err := apps.JobStatus(t.Context(), job(installation))
		return nimbus.ErrorCode(err)
	}
	if got := status(110); got != nimbus.CodeForbidden {
		t.Errorf("without an App: %s", got)
	}
	apps.Set(map[int64]*forge.App{11: appOne}, nil)
	if got := status(110); got != nimbus.CodeNotFound || one.Calls("apps/list-installations") != 0 {
		t.Errorf("of one App nothing has to be asked: %s", got)
	}

	apps.Set(map[int64]*forge.App{11: appOne, 22: appTwo}, nil)
	two.Refuse(githubtest.Refusal{Operation: "apps/list-installations", Status: http.StatusBadGateway})
	for range 3 {
		if got := status(220); got != nimbus.CodeUnavailable {
			t.Errorf("while one App can't be asked: %s", got)
		}
	}
	clock.now = clock.now.Add(2 * time.Minute)
	const op = "actions/get-job-for-workflow-run"
	before := one.Calls(op)
	if got := status(220); got != nimbus.CodeNotFound || two.Calls(op) != 1 || one.Calls(op) != before {
		t.Errorf("the second App's job: %s", got)
	}
	if got := status(110); got != nimbus.CodeNotFound || one.Calls(op) != before+1 {
		t.Errorf("the first App's job: %s", got)
	}
	for range 3 {
		if got := status(330); got != nimbus.CodeForbidden {
			t.Errorf("nobody's job: %s", got)
		}
	}
	if n := one.Calls("apps/list-installations"); n != 2 {
		t.Errorf("GitHub was asked %d times", n)
	}
}

func TestManifestPage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ api, organization, want string }{
		{"", "", "https://github.com/settings/apps/new"},
		{"https://api.github.com/", "acme", "https://github.com/organizations/acme/settings/apps/new"},
		{"https://api.acme.ghe.com", "", "https://acme.ghe.com/settings/apps/new"},
		{"https://git.example.com/api/v3", "a-b", "https://git.example.com/organizations/a-b/settings/apps/new"},
	} {
		if got, err := forge.ManifestPage(c.api, c.organization); err != nil || got != c.want {
			t.Errorf("%v: %s %v", c, got, err)
		}
	}
	for _, bad := range [][2]string{{"", "../x"}, {"", "a b"}, {"javascript:alert(1)", ""}, {"git.example.com", ""}} {
		if got, err := forge.ManifestPage(bad[0], bad[1]); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
			t.Errorf("%v: %s %v", bad, got, err)
		}
	}
	for _, bad := range []string{"", "nimbus.example.com", "ftp://x/y"} {
		if _, err := forge.Manifest("x", bad, "", false); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
			t.Errorf("webhook %q: %v", bad, err)
		}
	}
	for _, bad := range []string{"", "../app", "a?b", "a%2f"} {
		if _, err := forge.ConvertManifest(t.Context(), "http://127.0.0.1:1", bad, nil); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
			t.Errorf("code %q: %v", bad, err)
		}
	}
}
