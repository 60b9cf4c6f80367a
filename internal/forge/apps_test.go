package forge_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
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

// TestAppsSpeakForTheirOwn: who knows the secret of one App can't tell of the
// installations of another.
func TestAppsSpeakForTheirOwn(t *testing.T) {
	t.Parallel()
	_, appOne := startDouble(t, 11, 110)
	two, appTwo := startDouble(t, 22, 220)
	apps := forge.NewApps(&movable{now: time.Unix(1e9, 0)}, slog.New(slog.DiscardHandler))
	secrets := map[int64][][]byte{11: {[]byte("one"), []byte("one before")}, 22: {[]byte("two")}}
	processed := 0
	hook := forge.NewWebhook(forge.WebhookConfig{Secrets: apps.Secrets, MayTell: apps.MayTell,
		Process: func(context.Context, nimbus.Delivery, *nimbus.ForgeEvent) (nimbus.DeliveryOutcome, error) {
			processed++
			return nimbus.DeliveryIgnored, nil
		}})
	send := func(secret string, installation int64) int {
		body := fmt.Appendf(nil, `{"action":"created","installation":{"id":%d}}`, installation)
		r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
		r.Header.Set("X-Hub-Signature-256", forge.Sign([]byte(secret), body))
		r.Header.Set("X-Github-Event", "installation")
		r.Header.Set("X-Github-Delivery", nimbus.NewID("dlv", time.Now()))
		w := httptest.NewRecorder()
		hook.ServeHTTP(w, r)
		return w.Code
	}
	expect := func(want int, secret string, installation int64) {
		t.Helper()
		if got := send(secret, installation); got != want {
			t.Errorf("signed with %q, of installation %d: %d, want %d", secret, installation, got, want)
		}
	}
	apps.Set(map[int64]*forge.App{11: appOne}, map[int64][][]byte{11: secrets[11]})
	expect(http.StatusAccepted, "one", 110)
	expect(http.StatusAccepted, "one", 220) // of a single App GitHub alone knows the secret
	apps.Set(map[int64]*forge.App{11: appOne, 22: appTwo}, secrets)
	apps.Learn(t.Context())
	apps.Learn(t.Context()) // there is nothing left to learn
	if n := two.Calls("apps/list-installations"); n != 1 {
		t.Errorf("GitHub was asked %d times", n)
	}
	before := processed
	for secret, own := range map[string]int64{"one": 110, "one before": 110, "two": 220} {
		expect(http.StatusAccepted, secret, own)
		expect(http.StatusUnauthorized, secret, 330-own)
		expect(http.StatusAccepted, secret, 440) // nobody's, for which nothing can be done
		expect(http.StatusAccepted, secret, 0)
	}
	expect(http.StatusUnauthorized, "three", 110)
	if processed-before != 9 {
		t.Errorf("%d deliveries were processed, not 9", processed-before)
	}
}
