package identity

import (
	"os"
	"path/filepath"
	"strings"
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
	if _, err := old.Open("org", "name", again); nimbus.ErrorCode(err) != nimbus.CodeUnavailable {
		t.Errorf("opened without the new key: %v", err)
	}
	again[len(again)-1] ^= 1
	if _, err := rotated.Open("org", "name", again); err == nil {
		t.Error("a changed secret opened")
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

// FuzzParse: no input makes it fail otherwise than by its error.
func FuzzParse(f *testing.F) {
	f.Add(newToken(KindAdmin))
	f.Add("nbs__" + strings.Repeat("0", secretLength+checksumLength))
	f.Fuzz(func(t *testing.T, s string) {
		kind, err := parse(s)
		if err == nil && !strings.HasPrefix(s, prefix+string(kind)+"_") {
			t.Fatalf("%q is of kind %q", s, kind)
		}
	})
}
