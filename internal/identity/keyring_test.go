package identity

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/nimbus-ci/nimbus"
)

func TestKeyringRotates(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "master.key")
	old, err := OpenKeyring(path)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := old.Seal("org", "name", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(sealed), "secret") {
		t.Error("it isn't sealed")
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	newKey := "0badcafe " + strings.Repeat("ab", 32) + "\n"
	if err := os.WriteFile(path, append([]byte(newKey), raw...), 0o600); err != nil {
		t.Fatal(err)
	}
	rotated, err := OpenKeyring(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := rotated.Open("org", "name", sealed); err != nil || string(got) != "secret" {
		t.Errorf("%q, %v", got, err)
	}
	again, err := rotated.Seal("org", "name", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := old.Open("org", "name", again); err != nil || string(got) != "secret" {
		t.Errorf("a server that runs does not follow its key file: %v", err)
	}
	text, err := KeySource{Text: string(raw)}.Open()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := text.Open("org", "name", again); nimbus.ErrorCode(err) != nimbus.CodeConflict {
		t.Errorf("opened without the new key: %v", err)
	}
	if err := os.WriteFile(path, []byte("half a li"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := old.Open("org", "name", again); err != nil {
		t.Errorf("a file that is no key file took the keys away: %v", err)
	}
	again[len(again)-1] ^= 1
	if _, err := rotated.Open("org", "name", again); err == nil {
		t.Error("a changed secret opened")
	}
}

// TestOneFirstKey: of processes that start at once one makes the key, and all
// use it.
func TestOneFirstKey(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "master.key")
	rings := make([]*Keyring, 8)
	var all sync.WaitGroup
	for i := range rings {
		all.Go(func() {
			var err error
			if rings[i], err = OpenKeyring(path); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
	sealed, err := rings[0].Seal("org", "name", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range rings {
		if got, err := k.Open("org", "name", sealed); err != nil || string(got) != "secret" {
			t.Errorf("%q, %v", got, err)
		}
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("beside the key: %v, %v", left, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestKeyFileIsForNobodyElse(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "master.key")
	if _, err := OpenKeyring(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenKeyring(path); nimbus.ErrorHint(err) == "" {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(path, []byte("nonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenKeyring(path); nimbus.ErrorCode(err) != nimbus.CodeInvalid || strings.Contains(err.Error(), "nonsense") {
		t.Errorf("got %v", err)
	}
}
