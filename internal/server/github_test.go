package server

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"github.com/google/go-cmp/cmp"
	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/audit"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/store"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// openServer opens the data directory and tells what a webhook is answered.
func openServer(t *testing.T, data string, g *GitHub) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, err := Open(t.Context(), Config{Data: data, Listener: l, GitHub: g, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/webhooks/github", bytes.NewBufferString("{}")))
	return w.Code
}

func TestTheAppIsKeptSealed(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	if got := openServer(t, data, nil); got != http.StatusNotFound {
		t.Errorf("without an App a webhook is answered %d", got)
	}
	app := testApp(t, 1)
	for _, g := range []*GitHub{app, nil} { // given, then remembered
		if got := openServer(t, data, g); got != http.StatusUnauthorized {
			t.Errorf("an unsigned webhook is answered %d", got)
		}
	}
	err := filepath.WalkDir(data, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		for _, plain := range [][]byte{app.WebhookSecrets[0], app.PrivateKey} {
			if bytes.Contains(raw, plain) || bytes.Contains(raw, []byte(base64.StdEncoding.EncodeToString(plain))) {
				t.Errorf("%s holds a secret in the clear", filepath.Base(path))
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestAnAppOfBeforeIsTakenOver: what was kept when there could be one App alone
// is found by those who keep several.
func TestAnAppOfBeforeIsTakenOver(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	openServer(t, data, nil) // makes the key and the database
	secrets := openSecrets(t, data)
	raw, err := json.Marshal(testApp(t, 7))
	if err != nil {
		t.Fatal(err)
	}
	if err := secrets.Put(t.Context(), nimbus.DefaultOrgID, oneAppSecret, raw, nimbus.AuditEvent{}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got := openServer(t, data, nil); got != http.StatusUnauthorized {
			t.Errorf("an unsigned webhook is answered %d", got)
		}
	}
	names, err := openSecrets(t, data).Names(t.Context(), nimbus.DefaultOrgID)
	if err != nil || len(names) != 1 || names[0].Name != "github-app/7" {
		t.Errorf("kept: %v %v", names, err)
	}
}

// TestReplicasFollow: what one changes the others know after a look.
func TestReplicasFollow(t *testing.T) {
	t.Parallel()
	secrets := openSecrets(t, t.TempDir())
	clock := &movable{now: time.Unix(1e9, 0)}
	one, other := newGitHub(secrets, secrets.Store.(*store.Store), clock, slog.New(slog.DiscardHandler)), newGitHub(secrets, secrets.Store.(*store.Store), clock, slog.New(slog.DiscardHandler))
	ctx := t.Context()
	see := func(want ...string) {
		t.Helper()
		if err := other.reload(ctx); err != nil {
			t.Error(err)
		}
		var got []string
		for _, s := range other.forge.Secrets() {
			got = append(got, string(s))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("secrets that are taken (-want +got):\n%s", diff)
		}
	}
	k := keptApp{GitHub: *testApp(t, 7)}
	first := string(k.WebhookSecrets[0])
	if err := one.keep(ctx, k, nimbus.AuditEvent{}); err != nil {
		t.Fatal(err)
	}
	see(first)
	app := other.forge.All()[0]
	k.replaceSecret([]byte("second"), clock.now)
	if err := one.keep(ctx, k, nimbus.AuditEvent{}); err != nil {
		t.Fatal(err)
	}
	see("second", first)
	clock.now = clock.now.Add(oldSecretFor / 2)
	k.replaceSecret([]byte("third"), clock.now)
	if err := one.keep(ctx, k, nimbus.AuditEvent{}); err != nil {
		t.Fatal(err)
	}
	see("third", "second", first)
	clock.now = clock.now.Add(oldSecretFor * 3 / 4)
	see("third", "second")
	clock.now = clock.now.Add(oldSecretFor)
	see("third")
	if again := other.forge.All()[0]; again == app {
		t.Error("an App that changed is the one of before")
	}
	if err := one.Remove(ctx, identity.Root(), 7); err != nil {
		t.Error(err)
	}
	see()
}

// TestChangesOfAppsAreRecorded in the platform's chain, by who made them: what
// was given at the start, and each call of GitHubService that changes something.
func TestChangesOfAppsAreRecorded(t *testing.T) {
	t.Parallel()
	ctx, app := t.Context(), testApp(t, 7)
	secrets := openSecrets(t, t.TempDir())
	db, ok := secrets.Store.(audit.Store)
	if !ok {
		t.Fatal("the store has no ledger")
	}
	ledger, err := audit.Open(ctx, audit.Config{Log: slog.New(slog.DiscardHandler)}, db, secrets)
	if err != nil {
		t.Fatal(err)
	}
	github := httptest.NewServer(githubOf(t, app))
	defer github.Close()
	app.URL = github.URL
	g := newGitHub(secrets, secrets.Store.(*store.Store), nimbus.SystemClock{}, slog.New(slog.DiscardHandler))
	if err := g.start(ctx, app); err != nil {
		t.Fatal(err)
	}
	by := nimbus.Principal{Kind: nimbus.PrincipalUser, Subject: "usr_1", Platform: true}
	for _, change := range []func() error{
		func() error { _, err := g.RotateWebhookSecret(ctx, by, 7); return err },
		func() error { return g.Remove(ctx, by, 7) },
		func() error {
			_, err := g.Connect(ctx, by, 7, app.PrivateKey, []byte("another"), github.URL)
			return err
		},
		func() error { return g.Remove(ctx, by, 7) },
		func() error { _, err := g.ConvertManifest(ctx, by, "code", github.URL); return err },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
	}
	if err := ledger.Chain(ctx); err != nil {
		t.Fatal(err)
	}
	entries, _, err := ledger.Entries(ctx, "", nimbus.AuditFilter{OldestFirst: true}, nimbus.PageRequest{})
	var got []string
	for _, e := range entries {
		got = append(got, strings.Join([]string{e.Actor, e.Action, e.Target}, " "))
	}
	want := []string{
		"system github_app.connect 7", "user:usr_1 github_app.rotate_secret 7", "user:usr_1 github_app.remove 7",
		"user:usr_1 github_app.connect 7", "user:usr_1 github_app.remove 7", "user:usr_1 github_app.connect 7",
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("recorded (-want +got): %v\n%s", err, diff)
	}
}

// TestAppsThatCouldBeMistaken for one another are refused: ids are those of one
// server.
func TestAppsThatCouldBeMistaken(t *testing.T) {
	t.Parallel()
	const cloud, one, two = "", "https://one.example.com/api/v3", "https://two.example.com"
	for name, tt := range map[string]struct {
		have string // of App 7
		id   int64
		url  string
		want nimbus.Code
	}{
		"a new key":                           {have: one, id: 7},
		"a new key, with the address":         {have: one, id: 7, url: "https://one.example.com/"},
		"the same id elsewhere":               {have: one, id: 7, url: two, want: nimbus.CodeConflict},
		"the same id at github.com":           {have: one, id: 7, url: "https://github.com", want: nimbus.CodeConflict},
		"another App of the same server":      {have: one, id: 8, url: "https://one.example.com"},
		"an Enterprise Server and github.com": {have: cloud, id: 8, url: one},
		"github.com and an Enterprise Server": {have: one, id: 8, url: cloud},
		"two Enterprise Servers":              {have: one, id: 8, url: two, want: nimbus.CodeUnsupported},
	} {
		g := &gitHub{open: map[int64]openApp{7: {kept: keptApp{GitHub: GitHub{AppID: 7, URL: tt.have}}}}}
		err := g.mayJoin(tt.id, tt.url, tt.id == 7)
		if nimbus.ErrorCode(err) != tt.want || err != nil && nimbus.ErrorHint(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// githubOf is as much of GitHub as an App needs that is changed.
func githubOf(t *testing.T, app *GitHub) http.Handler {
	t.Helper()
	mux := http.NewServeMux()
	say := func(v any) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			if err := json.NewEncoder(w).Encode(v); err != nil {
				t.Error(err)
			}
		}
	}
	self := map[string]any{"id": app.AppID, "slug": "nimbus"}
	mux.Handle("GET /app", say(self))
	mux.Handle("PATCH /app/hook/config", say(map[string]any{}))
	mux.Handle("POST /app-manifests/code/conversions", say(map[string]any{"id": app.AppID, "pem": string(app.PrivateKey), "webhook_secret": "made"}))
	return mux
}

type movable struct{ now time.Time }

func (c *movable) Now() time.Time { return c.now }

func testApp(t *testing.T, id int64) *GitHub {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return &GitHub{AppID: id, WebhookSecrets: [][]byte{[]byte("a-webhook-secret-of-some-length")},
		PrivateKey: pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})}
}

// openSecrets opens the secrets of a data directory that no server uses.
func openSecrets(t *testing.T, data string) identity.Secrets {
	t.Helper()
	db, err := store.Open(t.Context(), store.Config{DSN: "sqlite:" + filepath.Join(data, "nimbus.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	keyring, err := identity.OpenKeyring(filepath.Join(data, "master.key"))
	if err != nil {
		t.Fatal(err)
	}
	return identity.Secrets{Store: db, Keyring: keyring}
}
