package cli

import (
	"bytes"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/server"
)

// nimbus runs one command line on a data directory.
func nimbusIn(t *testing.T, data string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = Main(t.Context(), "test", append(args, "--data", data), Streams{Out: &out, Err: &err})
	return code, out.String(), err.String()
}

func openServer(t *testing.T, data string) *server.Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	s, err := server.Open(t.Context(), server.Config{Data: data, Listener: l, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestBackupAndRestore: a backup is made of a server that runs, and is restored
// into the directory of one that does not.
func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	data, file := t.TempDir(), filepath.Join(t.TempDir(), "nimbus.backup")
	s := openServer(t, data)
	code, out, stderr := nimbusIn(t, data, "backup", file, "--json")
	if code != ExitOK || !strings.Contains(out, `"keys":false`) {
		t.Fatalf("exit code %d: %s%s", code, out, stderr)
	}
	if code, _, stderr := nimbusIn(t, data, "backup", file); code != ExitOK || !strings.Contains(stderr, "the master key is not in it") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if code, _, stderr := nimbusIn(t, data, "restore", file, "--force"); code != ExitFailure || !strings.Contains(stderr, "another nimbus") {
		t.Errorf("over a server that runs: exit code %d: %s", code, stderr)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := nimbusIn(t, data, "restore", file); code != ExitFailure || !strings.Contains(stderr, "hint: --force puts it aside") {
		t.Errorf("over what is there: exit code %d: %s", code, stderr)
	}
	if code, _, stderr := nimbusIn(t, data, "restore", file, "--force"); code != ExitOK || !strings.Contains(stderr, "before-restore-") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	again := openServer(t, data)
	if again.AdminToken() != "" {
		t.Error("the restored server does not know its administrator")
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := nimbusIn(t, t.TempDir(), "restore", file); code != ExitOK || !strings.Contains(stderr, "put the master key back") {
		t.Errorf("into an empty directory: exit code %d: %s", code, stderr)
	}
}

// TestServerWithoutItsMasterKey: it does not start, says which key it wants,
// and leaves no other one in its place.
func TestServerWithoutItsMasterKey(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	if err := openServer(t, data).Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(data, "master.key")
	kept, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	id, _, _ := strings.Cut(string(kept), " ")
	for name, key := range map[string]string{"none": "", "another": "00000000 " + strings.Repeat("ab", 32) + "\n"} {
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if key != "" {
			if err := os.WriteFile(path, []byte(key), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		code, _, stderr := nimbusIn(t, data, "up", "--no-agent", "--listen", "127.0.0.1:0")
		if code != ExitFailure || !strings.Contains(stderr, id) || !strings.Contains(stderr, "hint: ") {
			t.Errorf("with %s: exit code %d: %s", name, code, stderr)
		}
		if now, err := os.ReadFile(path); string(now) != key || (key == "") != os.IsNotExist(err) {
			t.Errorf("with %s: the key file was written: %v", name, err)
		}
	}
	if err := os.WriteFile(path, kept, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := openServer(t, data).Close(); err != nil {
		t.Errorf("with its key again: %v", err)
	}
}
