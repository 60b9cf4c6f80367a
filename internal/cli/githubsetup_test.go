package cli

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"html"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/forge/githubtest"
	"github.com/nimbus-ci/nimbus/internal/server"
)

// connected is a running server beside the double of GitHub.
type connected struct {
	double *githubtest.Server
	url    string
	data   string
}

func startConnected(t *testing.T, change ...func(*githubtest.Config)) connected {
	t.Helper()
	var cfg githubtest.Config
	for _, f := range change {
		f(&cfg)
	}
	double, err := githubtest.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	data := t.TempDir()
	s, err := server.Open(t.Context(), server.Config{Data: data, Listener: l, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- s.Run(ctx, func() { close(ready) }) }()
	<-ready
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		s.Close()
		double.Close()
		for _, v := range double.Violations() {
			t.Error(v)
		}
	})
	return connected{double, "http://" + l.Addr().String(), data}
}

// run runs a command line against the server, and tells what it writes to
// stderr line by line.
func (c connected) run(ctx context.Context, told io.Writer, args ...string) (code int, out string) {
	var o bytes.Buffer
	code = Main(ctx, "test", append([]string{"--server", c.url, "--data", c.data}, args...), Streams{Out: &o, Err: told})
	return code, o.String()
}

func (c connected) now(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	var e bytes.Buffer
	code, out = c.run(t.Context(), &e, args...)
	return code, out, e.String()
}

// lines is a writer that passes the first line on which something matches.
type lines struct {
	mu      sync.Mutex
	text    string
	match   *regexp.Regexp
	matched chan string
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text += string(p)
	if m := l.match.FindString(l.text); m != "" {
		select {
		case l.matched <- m:
		default:
		}
	}
	return len(p), nil
}

// get is a browser's request; it follows redirects.
func get(t *testing.T, method, address string, form url.Values) (status int, page string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

// field is the value of an attribute behind another one, in a page.
func field(t *testing.T, page, pattern string) string {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(page)
	if m == nil {
		t.Fatalf("the page lacks %s:\n%s", pattern, page)
	}
	return html.UnescapeString(m[1])
}

func TestGitHubSetup(t *testing.T) {
	t.Parallel()
	c := startConnected(t)
	told := &lines{match: regexp.MustCompile(`http://127\.0\.0\.1:\d+/[A-Z0-9]{20,}\b`), matched: make(chan string, 1)}
	type result struct {
		code int
		out  string
	}
	ended := make(chan result, 1)
	go func() {
		code, out := c.run(t.Context(), told, "github", "setup", "--address", c.url, "--organization", "octo-org", "--api", c.double.URL(), "--json")
		ended <- result{code, out}
	}()
	var link string
	select {
	case link = <-told.matched:
	case r := <-ended:
		t.Fatalf("it ended with %d: %s %s", r.code, r.out, told.text)
	}

	status, page := get(t, http.MethodGet, link, nil)
	action := field(t, page, `action="([^"]*)"`)
	if status != http.StatusOK || !strings.HasPrefix(action, c.double.URL()+"/organizations/octo-org/settings/apps/new?state=") {
		t.Fatalf("%d, the form goes to %s", status, action)
	}
	if status, _ := get(t, http.MethodGet, link[:strings.LastIndex(link, "/")]+"/", nil); status != http.StatusNotFound {
		t.Errorf("who does not know the path gets %d", status)
	}
	if status, page := get(t, http.MethodGet, link+"/back?code=x&state=wrong", nil); status != http.StatusForbidden {
		t.Errorf("somebody else's way back: %d %s", status, page)
	}
	form := url.Values{"manifest": {field(t, page, `name="manifest" value="([^"]*)"`)}}
	status, page = get(t, http.MethodPost, action, form)
	if install := field(t, page, `class="next" href="([^"]*)"`); status != http.StatusOK || install != c.double.URL()+"/apps/nimbus/installations/new" {
		t.Errorf("%d, it is to be installed at %s", status, install)
	}
	r := <-ended
	if r.code != ExitOK || !strings.Contains(r.out, `"account":"octo-org"`) || !strings.Contains(r.out, `"missing_permissions":[]`) {
		t.Errorf("it ends with %d: %s\n%s", r.code, r.out, told.text)
	}
	for _, secret := range []string{string(c.double.WebhookSecret()), "PRIVATE KEY"} {
		if strings.Contains(r.out+told.text+page, secret) {
			t.Error("a secret is shown")
		}
	}
	if code, out, errs := c.now(t, "github", "apps"); code != ExitOK || !strings.Contains(out, "1001  nimbus") {
		t.Errorf("apps: %d %s%s", code, out, errs)
	}

	// What the double sends now is taken, and goes on to be while the secret
	// is rotated.
	before := string(c.double.WebhookSecret())
	if code, out, errs := c.now(t, "github", "rotate-secret", "1001", "--json"); code != ExitOK || !strings.Contains(out, `"webhook_secrets":2`) {
		t.Errorf("rotate: %d %s%s", code, out, errs)
	}
	after := string(c.double.WebhookSecret())
	if after == before {
		t.Error("GitHub did not hear of the new secret")
	}
	c.double.Refuse(githubtest.Refusal{Operation: "apps/update-webhook-config-for-app", Status: http.StatusForbidden})
	if code, _, errs := c.now(t, "github", "rotate-secret", "1001"); code == ExitOK || string(c.double.WebhookSecret()) != after {
		t.Errorf("a refused rotation: %d %s", code, errs)
	}
	for secret, want := range map[string]int{before: http.StatusOK, after: http.StatusOK, "another": http.StatusUnauthorized} {
		if got := ping(t, c.url+"/webhooks/github", secret); got != want {
			t.Errorf("a delivery is answered %d, want %d", got, want)
		}
	}

	c.double.Grant(map[string]string{"metadata": "read", "actions": "write"})
	if code, out, errs := c.now(t, "github", "installations"); code != ExitOK || !strings.Contains(out, "not granted: administration:write") {
		t.Errorf("installations: %d %s%s", code, out, errs)
	}
	if code, _, errs := c.now(t, "github", "remove", "1001"); code != ExitOK {
		t.Errorf("remove: %d %s", code, errs)
	}
	if code, _, errs := c.now(t, "github", "remove", "1001"); code == ExitOK || !strings.Contains(errs, "not connected") {
		t.Errorf("remove again: %d %s", code, errs)
	}
	if got := ping(t, c.url+"/webhooks/github", after); got != http.StatusNotFound {
		t.Errorf("a delivery of an App that is gone is answered %d", got)
	}
}

func TestGitHubConnect(t *testing.T) {
	t.Parallel()
	c := startConnected(t)
	key, secret := filepath.Join(c.data, "app.pem"), filepath.Join(c.data, "secret")
	for path, text := range map[string]string{key: string(c.double.PrivateKey()), secret: string(c.double.WebhookSecret()) + "\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, refused := range [][]string{
		{"1001", "--key-file", key}, // without a secret
		{"1002", "--key-file", key, "--webhook-secret-file", secret},
		{"1001", "--key-file", secret, "--webhook-secret-file", secret},
	} {
		code, _, errs := c.now(t, append([]string{"github", "connect", "--api", c.double.URL()}, refused...)...)
		if code == ExitOK || !strings.Contains(errs, "hint") {
			t.Errorf("%v: %d %s", refused, code, errs)
		}
	}
	lines := filepath.Join(c.data, "lines")
	if err := os.WriteFile(lines, []byte("one\ntwo\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.refused(t, "several lines", "github", "connect", "1001", "--key-file", key, "--webhook-secret-file", lines, "--api", c.double.URL())
	c.refused(t, "plain http", "github", "connect", "1001", "--key-file", key, "--webhook-secret-file", secret, "--api", "http://github.example.com/api/v3")
	c.refused(t, "can't reach", "github", "setup", "--address", c.url)
	if code, out, _ := c.now(t, "github", "apps", "--json"); code != ExitOK || out != "{\"apps\":[]}\n" {
		t.Errorf("what was refused is kept: %s", out)
	}
	if code, out, errs := c.now(t, "github", "connect", "1001", "--api", c.double.URL(), "--key-file", key, "--webhook-secret-file", secret); code != ExitOK {
		t.Errorf("%d %s%s", code, out, errs)
	}
	// A new key needs neither the secret nor the address again.
	if code, out, errs := c.now(t, "github", "connect", "1001", "--key-file", key, "--json"); code != ExitOK || !strings.Contains(out, c.double.URL()) {
		t.Errorf("a new key: %d %s%s", code, out, errs)
	}
	if got := ping(t, c.url+"/webhooks/github", string(c.double.WebhookSecret())); got != http.StatusOK {
		t.Errorf("a delivery is answered %d", got)
	}
}

// ping sends a signed delivery, as GitHub does when a webhook is made.
func ping(t *testing.T, address, secret string) int {
	t.Helper()
	const body = `{"zen":"Keep it logically awesome."}`
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(body))
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	r.Header.Set("X-Github-Event", "ping")
	r.Header.Set("X-Github-Delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958")
	r.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	return answer.StatusCode
}
