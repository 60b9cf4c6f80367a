package cli

import (
	"bytes"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
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
}

// TestRestoreTriesTheMasterKey: what the key at hand does not open is not
// restored, nothing is replaced by it, and nothing is left of having tried.
func TestRestoreTriesTheMasterKey(t *testing.T) {
	t.Parallel()
	data, kept := t.TempDir(), t.TempDir()
	if err := openServer(t, data).Close(); err != nil {
		t.Fatal(err)
	}
	plain, whole := filepath.Join(kept, "plain.backup"), filepath.Join(kept, "whole.backup")
	for _, args := range [][]string{{"backup", plain}, {"backup", whole, "--with-key"}} {
		if code, _, stderr := nimbusIn(t, data, args...); code != ExitOK {
			t.Fatalf("%v: exit code %d: %s", args, code, stderr)
		}
	}
	key, err := os.ReadFile(filepath.Join(data, "master.key"))
	if err != nil {
		t.Fatal(err)
	}
	id := string(key[:8])
	safe, impostor := filepath.Join(kept, "safe.key"), filepath.Join(kept, "impostor.key")
	for path, text := range map[string]string{safe: string(key), impostor: id + " " + strings.Repeat("ab", 32) + "\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const other = "0badcafe"
	for name, c := range map[string]struct {
		args []string
		key  bool // the data directory has a database and a key of its own
		code int
		says []string
	}{
		"another key":               {args: []string{plain, "--force"}, key: true, code: ExitFailure, says: []string{id, other, "--without-key"}},
		"no key":                    {args: []string{plain}, code: ExitFailure, says: []string{id, "there is no master key", "--without-key"}},
		"a key of the same id":      {args: []string{plain, "--master-key-file", impostor}, code: ExitFailure, says: []string{id}},
		"no key, and it is known":   {args: []string{plain, "--without-key"}, code: ExitOK, says: []string{id, "does not start"}},
		"the key, elsewhere":        {args: []string{plain, "--master-key-file", safe}, code: ExitOK},
		"the key is in the backup":  {args: []string{whole, "--force"}, key: true, code: ExitOK},
		"the wrong one is named":    {args: []string{whole, "--master-key-file", impostor}, code: ExitFailure, says: []string{id}},
		"not even a backup, no key": {args: []string{safe}, code: ExitFailure, says: []string{"no whole backup"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			into := filepath.Join(t.TempDir(), "data")
			if c.key {
				if err := openServer(t, into).Close(); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(into, "master.key"), []byte(other+" "+strings.Repeat("cd", 32)+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			before := names(t, into)
			code, _, stderr := nimbusIn(t, into, append([]string{"restore"}, c.args...)...)
			if code != c.code {
				t.Errorf("exit code %d: %s", code, stderr)
			}
			for _, want := range c.says {
				if !strings.Contains(stderr, want) {
					t.Errorf("it does not say %q: %s", want, stderr)
				}
			}
			if after := names(t, into); code != ExitOK && !slices.Equal(before, after) {
				t.Errorf("there was %q, and now there is %q", before, after)
			}
		})
	}
}

// names are the files of a folder; nil where there is no folder.
func names(t *testing.T, dir string) (out []string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	out = []string{"."}
	for _, f := range files {
		out = append(out, f.Name())
	}
	return out
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
