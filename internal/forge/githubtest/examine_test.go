package githubtest_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	nimbus "github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/forge"
)

// clinic is a world with an App that may be made ill.
type clinic struct {
	*world
	cfg  forge.AppConfig
	hook *httptest.Server // knows the right secret
	deaf *httptest.Server // knows another one
}

func newClinic(t *testing.T) *clinic {
	t.Helper()
	c := &clinic{world: newWorld(t)}
	transport := &http.Transport{}
	c.cfg = forge.AppConfig{AppID: c.AppID(), PrivateKey: c.PrivateKey(), BaseURL: c.URL(), Transport: transport, Clock: c.clock}
	serve := func(secret []byte) *httptest.Server {
		return httptest.NewServer(forge.NewWebhook(forge.WebhookConfig{Secrets: func() [][]byte { return [][]byte{secret} }, Process: c.process}))
	}
	c.hook, c.deaf = serve(c.WebhookSecret()), serve([]byte("another"))
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		c.hook.Close()
		c.deaf.Close()
	})
	c.sendTo(c.hook.URL)
	return c
}

// sendTo has webhooks go to a server, and one go there.
func (c *clinic) sendTo(url string) {
	c.t.Helper()
	c.SetWebhook(url + "/webhooks/github")
	c.Ping()
	if err := c.Flush(c.ctx); err != nil {
		c.t.Fatal(err)
	}
}

func (c *clinic) examine() map[string]nimbus.GitHubCheck {
	c.t.Helper()
	app, err := forge.NewApp(c.cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	out := map[string]nimbus.GitHubCheck{}
	for _, check := range app.Examine(c.ctx) {
		out[check.Name] = check
	}
	return out
}

// TestExamine: each fault is found by its name, alone, and with the next step;
// once it is mended, nothing is found.
func TestExamine(t *testing.T) {
	t.Parallel()
	whole := func(c *clinic) {
		c.Grant(map[string]string{"administration": "write", "actions": "write", "checks": "write", "contents": "read", "metadata": "read"})
	}
	for name, tt := range map[string]struct {
		harm, mend func(*clinic)
		check      string
		status     nimbus.CheckStatus
		says, hint string
	}{
		"wrong secret": {
			func(c *clinic) { c.sendTo(c.deaf.URL) }, func(c *clinic) { c.SetWebhook(c.hook.URL + "/webhooks/github") }, // the last webhook is sent again
			"secret", nimbus.CheckFails, "another secret", "rotate-secret 1001",
		},
		"missing permission": {
			func(c *clinic) {
				c.Grant(map[string]string{"actions": "write", "checks": "write", "contents": "read", "metadata": "read"})
			}, whole,
			"permissions", nimbus.CheckFails, "administration:write", "Permissions & events",
		},
		"too little of a permission": {
			func(c *clinic) {
				c.Grant(map[string]string{"administration": "read", "actions": "write", "checks": "write", "contents": "read", "metadata": "read"})
			}, whole,
			"installation octo-org", nimbus.CheckFails, "administration:write", "Review request",
		},
		"no check runs": {
			func(c *clinic) {
				c.Grant(map[string]string{"administration": "write", "actions": "write", "contents": "read", "metadata": "read"})
			}, whole,
			"permissions", nimbus.CheckWarns, "checks:write", "Permissions & events",
		},
		"no reruns": {
			func(c *clinic) {
				c.Grant(map[string]string{"administration": "write", "actions": "read", "checks": "write", "contents": "read", "metadata": "read"})
			}, whole,
			"installation octo-org", nimbus.CheckWarns, "has not granted actions:write: no job can be run again", "Review request",
		},
		"missing event": {
			func(c *clinic) { c.Subscribe("push") }, func(c *clinic) { c.Subscribe("workflow_job") },
			"events", nimbus.CheckFails, "workflow_job", "Workflow jobs",
		},
		"suspended": {
			func(c *clinic) { c.Suspend(true) }, func(c *clinic) { c.Suspend(false) },
			"installation octo-org", nimbus.CheckFails, "suspended", "Unsuspend",
		},
		"clock ahead": {
			func(c *clinic) { c.cfg.Clock = skewed{c.clock, 5 * time.Minute} }, func(c *clinic) { c.cfg.Clock = c.clock },
			"clock", nimbus.CheckFails, "5m", "timedatectl",
		},
		"clock behind": {
			func(c *clinic) { c.cfg.Clock = skewed{c.clock, -2 * time.Minute} }, func(c *clinic) { c.cfg.Clock = c.clock },
			"clock", nimbus.CheckFails, "behind", "timedatectl",
		},
		"clock a little off": {
			func(c *clinic) { c.cfg.Clock = skewed{c.clock, -40 * time.Second} }, func(c *clinic) { c.cfg.Clock = c.clock },
			"clock", nimbus.CheckWarns, "behind", "timedatectl",
		},
		"unreachable": {
			func(c *clinic) { c.cfg.BaseURL = "http://127.0.0.1:1" }, func(c *clinic) { c.cfg.BaseURL = c.URL() },
			"api", nimbus.CheckFails, "can't be reached", "HTTPS_PROXY",
		},
		"another App's key": {
			func(c *clinic) { c.cfg.PrivateKey = strangersKey(c.t) }, func(c *clinic) { c.cfg.PrivateKey = c.PrivateKey() },
			"key", nimbus.CheckFails, "key", "id and key",
		},
		"webhooks go nowhere": {
			func(c *clinic) { c.sendTo("http://127.0.0.1:1") }, func(c *clinic) { c.sendTo(c.hook.URL) },
			"deliveries", nimbus.CheckFails, "did not get through", "reach",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newClinic(t)
			wantHealthy(t, c.examine())
			tt.harm(c)
			found := c.examine()
			check := found[tt.check]
			if check.Status != tt.status || !strings.Contains(check.Detail, tt.says) || !strings.Contains(check.Hint, tt.hint) {
				t.Errorf("%q is %+v", tt.check, check)
			}
			tt.mend(c)
			wantHealthy(t, c.examine())
		})
	}
}

func wantHealthy(t *testing.T, checks map[string]nimbus.GitHubCheck) {
	t.Helper()
	for _, name := range []string{"api", "clock", "key", "permissions", "events", "installation octo-org", "webhook", "deliveries"} {
		if _, ok := checks[name]; !ok {
			t.Errorf("%q was not looked at", name)
		}
	}
	for _, check := range checks {
		if check.Status != nimbus.CheckGood || check.Detail == "" {
			t.Errorf("of a healthy one: %+v", check)
		}
	}
}

// skewed is a clock that is off.
type skewed struct {
	right nimbus.Clock
	by    time.Duration
}

func (s skewed) Now() time.Time { return s.right.Now().Add(s.by) }

func strangersKey(t *testing.T) []byte {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
}
