package cli

import (
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestKeysWhileTheServerRuns: a rotation needs no restart, and shows no key.
func TestKeysWhileTheServerRuns(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	s := openServer(t, data)
	defer s.Close()
	raw, err := os.ReadFile(filepath.Join(data, "master.key"))
	if err != nil {
		t.Fatal(err)
	}
	old, secret, _ := strings.Cut(strings.TrimSpace(string(raw)), " ")
	code, listed, stderr := nimbusIn(t, data, "keys", "--json")
	if code != ExitOK || !strings.Contains(listed, old) || strings.Contains(listed, secret) {
		t.Fatalf("exit code %d: %s%s", code, listed, stderr)
	}
	code, staged, stderr := nimbusIn(t, data, "keys", "rotate", "--stage", "--json")
	if code != ExitOK {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	_, id, _ := strings.Cut(strings.TrimRight(staged, "\"}\n"), `{"id":"`)
	code, rotated, stderr := nimbusIn(t, data, "keys", "rotate", "--to", id, "--keep-old", "--json")
	if code != ExitOK || !strings.Contains(rotated, `"id":"`+id+`"`) || strings.Contains(rotated+stderr, secret) {
		t.Errorf("exit code %d: %s%s", code, rotated, stderr)
	}
	if got := recordedOf(t, data, "master_key.rotate"); got != id {
		t.Errorf("the ledger has a rotation to %q, not to %s", got, id)
	}
	if code, _, _ := nimbusIn(t, data, "keys", "rotate", "--stage", "--to", id); code != ExitUsage {
		t.Errorf("--stage with --to: exit code %d", code)
	}
	if code, _, stderr := nimbusIn(t, t.TempDir(), "keys"); code != ExitFailure || !strings.Contains(stderr, "hint: name the server's data directory") {
		t.Errorf("where no server is: exit code %d: %s", code, stderr)
	}
}

// recordedOf is the target of the one event of an action that waits for the
// ledger, or is in it.
func recordedOf(t *testing.T, data, action string) (target string) {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(data, "nimbus.db")+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	const query = "SELECT target FROM audit_outbox WHERE action = $1 UNION ALL SELECT target FROM audit_ledger WHERE action = $1"
	if err := db.QueryRowContext(t.Context(), query, action).Scan(&target); err != nil {
		t.Fatal(err)
	}
	return target
}
