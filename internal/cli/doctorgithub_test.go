package cli

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus/internal/forge/githubtest"
)

// skewedClock is a clock that is off.
type skewedClock struct{ by time.Duration }

func (c skewedClock) Now() time.Time { return time.Now().Add(c.by) }

// permitted are the permissions that an App should have, with others.
func permitted(others map[string]string) map[string]string {
	out := map[string]string{"administration": "write", "actions": "write", "checks": "write", "contents": "read", "metadata": "read"}
	for name, level := range others {
		out[name] = level
	}
	return out
}

// healthy is what the command says of an App that lacks nothing.
const healthy = `ok    api          GITHUB answers
ok    clock        within seconds of GitHub's
ok    key          it is that of Nimbus
ok    permissions  nothing is missing
ok    events       subscribed to workflow_job
ok    installation octo-org nothing is missing
ok    webhook      webhooks go to NIMBUS/webhooks/github
ok    deliveries   the last webhook was taken, at TIME
warn  runner       no host has joined
      nimbus hosts token lets one join
`

const settings = "in the App's settings at GitHub"

// TestDoctorGitHub: each fault, as the command shows it, with the next step and
// its exit code.
func TestDoctorGitHub(t *testing.T) {
	t.Parallel()
	const permissionsHint = settings + " (GITHUB/apps/nimbus), under Permissions & events, add them; each owner then has to approve"
	const approve = "an owner of octo-org approves them at GitHub: Settings, Applications, Configure, Review request"
	for name, tt := range map[string]struct {
		clock time.Duration
		harm  func(t *testing.T, c connected)
		code  int
		says  map[string]string // a line of healthy, by its word, and what is there instead
		only  string            // or all that is there
	}{
		"healthy": {code: ExitOK},
		"wrong secret": {
			harm: func(t *testing.T, c connected) {
				deaf := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }))
				t.Cleanup(deaf.Close)
				c.double.SetWebhook(deaf.URL + "/webhooks/github")
				c.double.Ping()
				if err := c.double.Flush(t.Context()); err != nil {
					t.Fatal(err)
				}
			},
			code: ExitFailure,
			says: map[string]string{
				"webhook":    "ok    webhook      webhooks go to OTHER/webhooks/github\n",
				"deliveries": "fail  secret       webhooks are refused: GitHub signs them with another secret than Nimbus knows\n      nimbus github rotate-secret 1001 sets a new one on both sides\n",
			},
		},
		"missing permission": {
			harm: func(_ *testing.T, c connected) {
				c.double.Grant(permitted(map[string]string{"administration": "read"}))
			}, code: ExitFailure,
			says: map[string]string{
				"permissions":  "fail  permissions  the App does not ask for administration:write\n      " + permissionsHint + "\n",
				"installation": "fail  installation octo-org " + "octo-org has not granted administration:write\n      " + approve + "\n",
			},
		},
		"reruns are not permitted": {
			harm: func(_ *testing.T, c connected) { c.double.Grant(permitted(map[string]string{"actions": "read"})) }, code: ExitOK,
			says: map[string]string{
				"permissions":  "warn  permissions  the App does not ask for actions:write: no job can be run again from here\n      " + permissionsHint + "\n",
				"installation": "warn  installation octo-org " + "octo-org has not granted actions:write: no job can be run again from here\n      " + approve + "\n",
			},
		},
		"missing event": {
			harm: func(_ *testing.T, c connected) { c.double.Subscribe("push") }, code: ExitFailure,
			says: map[string]string{"events": "fail  events       the App is not subscribed to workflow_job: GitHub tells nothing of jobs\n      " +
				settings + ", under Permissions & events, subscribe to Workflow jobs\n"},
		},
		"suspended installation": {
			harm: func(_ *testing.T, c connected) { c.double.Suspend(true) }, code: ExitFailure,
			says: map[string]string{"installation": "fail  installation octo-org it is suspended: GitHub sends nothing and refuses every call\n" +
				"      its owner ends that at GitHub: Settings, Applications, Configure, Unsuspend\n"},
		},
		"clock skew": {
			clock: -25 * time.Second, code: ExitOK,
			says: map[string]string{"clock": "warn  clock        this machine's clock is SKEW ahead of GitHub's\n      set the clock: timedatectl set-ntp true\n"},
		},
		"unreachable": {
			harm: func(_ *testing.T, c connected) { c.double.Close() }, code: ExitFailure,
			only: "fail  api          GITHUB can't be reached: WHY\n      let this machine out to it, by HTTPS_PROXY if need be; for GitHub Enterprise Server the address ends with /api/v3\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startConnected(t, func(cfg *githubtest.Config) { cfg.Clock = skewedClock{tt.clock} })
			c.connectApp(t)
			c.hear(t)
			if tt.harm != nil {
				tt.harm(t, c)
			}
			want := tt.only
			for line := range strings.Lines(healthy) {
				if tt.only != "" {
					break
				}
				if other, ok := tt.says[strings.Fields(line)[1]]; ok {
					line = other
				}
				want += line
			}
			code, out, errs := c.now(t, "doctor", "github")
			if diff := cmp.Diff(want, c.anonymous(out)); diff != "" || code != tt.code {
				t.Errorf("it ends with %d, want %d (-want +got):\n%s%s", code, tt.code, diff, errs)
			}
		})
	}
}

// connectApp connects the double's App.
func (c connected) connectApp(t *testing.T) {
	t.Helper()
	key, secret := filepath.Join(c.data, "app.pem"), filepath.Join(c.data, "secret")
	for path, text := range map[string][]byte{key: c.double.PrivateKey(), secret: c.double.WebhookSecret()} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if code, _, errs := c.now(t, "github", "connect", "1001", "--key-file", key, "--webhook-secret-file", secret, "--api", c.double.URL()); code != ExitOK {
		t.Fatalf("connect: %d %s", code, errs)
	}
}

// hear has a webhook come.
func (c connected) hear(t *testing.T) {
	t.Helper()
	c.double.SetWebhook(c.url + "/webhooks/github")
	c.double.Ping()
	if err := c.double.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// anonymous takes out what differs from run to run.
func (c connected) anonymous(out string) string {
	out = strings.NewReplacer(c.double.URL(), "GITHUB", c.url, "NIMBUS").Replace(out)
	for pattern, word := range map[string]string{
		`\d{4}-\d\d-\d\dT[\d:]+Z`: "TIME", `http://127\.0\.0\.1:\d+`: "OTHER", `is \d+s ahead`: "is SKEW ahead", `reached: .*`: "reached: WHY",
	} {
		out = regexp.MustCompile(pattern).ReplaceAllString(out, word)
	}
	return out
}
