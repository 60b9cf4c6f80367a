package claims_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/executor/claims"
)

func TestBook(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := claims.Book{Dir: filepath.Join(dir, "claims")}
	owns := func(machine, want string) {
		t.Helper()
		if got, err := b.Owner(machine); err != nil || got != want {
			t.Errorf("%s is %q's, %v", machine, got, err)
		}
	}
	has := func(id, want string) {
		t.Helper()
		if got, err := b.MachineOf(id); err != nil || got != want {
			t.Errorf("%s has %q, %v", id, got, err)
		}
	}
	owns("vm_1", "vm_1") // before there is a folder
	has("att_1", "att_1")
	from, to := filepath.Join(dir, "vm_1"), filepath.Join(dir, "att_1")
	for _, path := range []string{from, to} {
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(from, "own"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	no := errors.New("no")
	if err := b.Hand("vm_1", from, "att_1", to, func() error { return no }); !errors.Is(err, no) {
		t.Errorf("got %v", err)
	}
	owns("vm_1", "vm_1") // nobody's, when it was not handed over
	if err := b.Hand("vm_1", from, "att_1", to, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(to, "own")); err != nil {
		t.Error(err)
	}
	owns("vm_1", "att_1")
	has("att_1", "vm_1")
	for range 2 {
		if err := b.Drop("vm_1"); err != nil {
			t.Error(err)
		}
	}
	owns("vm_1", "vm_1")
}
