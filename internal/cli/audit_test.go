package cli

import (
	"crypto/ed25519"
	"database/sql"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/audit"
)

// await runs a command line until it writes something.
func (c connected) await(t *testing.T, what string, args ...string) string {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		code, out, errs := c.now(t, args...)
		if code != ExitOK {
			t.Fatalf("%v: exit code %d: %s", args, code, errs)
		}
		if strings.Contains(out, what) {
			return out
		}
	}
	t.Fatalf("%v never writes %s", args, what)
	return ""
}

// TestTheLedgerIsVerifiedFromOutside: a running server's chain is exported and
// verified, with it and without it; then somebody changes its database.
func TestTheLedgerIsVerifiedFromOutside(t *testing.T) {
	t.Parallel()
	c := startConnected(t)
	if code, _, errs := c.now(t, "hosts", "token"); code != ExitOK {
		t.Fatal(errs)
	}
	c.await(t, `"kind":"join"`, "audit", "list", "--platform", "--json", "--action", "token.create")
	dir := t.TempDir()
	key, export := filepath.Join(dir, "key.pem"), filepath.Join(dir, "export.jsonl")
	_, pem, _ := c.now(t, "audit", "key")
	_, lines, _ := c.now(t, "audit", "export", "--platform")
	save(t, key, pem)
	save(t, export, lines)
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	other, err := audit.EncodeKey(public)
	if err != nil {
		t.Fatal(err)
	}
	save(t, filepath.Join(dir, "other.pem"), string(other))

	none := connected{url: "http://127.0.0.1:1", data: dir} // no server
	for name, tt := range map[string]struct {
		c    connected
		args []string
		want int
	}{
		"online":                  {c, nil, ExitOK},
		"online, the key kept":    {c, []string{"--key-file", key, "--against", export}, ExitOK},
		"offline":                 {none, []string{"--key-file", key, "--file", export}, ExitOK},
		"against itself":          {none, []string{"--key-file", key, "--file", export, "--against", export}, ExitOK},
		"without a key":           {none, []string{"--file", export}, ExitFailure},
		"no such file":            {none, []string{"--key-file", key, "--file", export + "x"}, ExitFailure},
		"a file that is no key":   {none, []string{"--key-file", export, "--file", export}, ExitFailure},
		"a file that is no chain": {none, []string{"--key-file", key, "--file", key}, ExitFailure},
		"another key":             {none, []string{"--key-file", filepath.Join(dir, "other.pem"), "--file", export}, ExitBroken},
		"no token":                {none, []string{"--key-file", key}, ExitFailure},
	} {
		code, _, errs := tt.c.now(t, append([]string{"audit", "verify", "--platform"}, tt.args...)...)
		if code != tt.want {
			t.Errorf("%s: exit code %d, want %d: %s", name, code, tt.want, errs)
		}
	}

	changed := filepath.Join(dir, "changed.jsonl")
	save(t, changed, strings.Replace(lines, `"kind":"join"`, `"kind":"host"`, 1))
	code, out, errs := none.now(t, "audit", "verify", "--file", changed, "--key-file", key, "--json")
	var verdict verdictView
	if err := json.Unmarshal([]byte(out), &verdict); code != ExitBroken || err != nil || verdict.Intact || verdict.FirstBad == nil || verdict.FirstBad.Seq != 2 || errs != "" {
		t.Errorf("a changed export: exit code %d, %s%s", code, out, errs)
	}

	code, out, errs = c.now(t, "audit", "verify", "--json", "--key-file", key)
	if verdict = (verdictView{}); json.Unmarshal([]byte(out), &verdict) != nil || code != ExitOK || !verdict.Intact || verdict.Entries != 0 {
		t.Errorf("the org's own chain: exit code %d, %s%s", code, out, errs)
	}

	c.tamper(t)
	code, _, errs = c.now(t, "audit", "verify", "--platform")
	if code != ExitBroken || !strings.Contains(errs, "entry 1 (aud_") {
		t.Errorf("a changed database: exit code %d: %s", code, errs)
	}
}

// tamper is somebody with the database file.
func (c connected) tamper(t *testing.T) {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(c.data, "nimbus.db")+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.ExecContext(t.Context(), "DROP TRIGGER audit_ledger_update; UPDATE audit_ledger SET actor = 'user:somebody-else' WHERE org_id = '' AND seq = 1")
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

func save(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
