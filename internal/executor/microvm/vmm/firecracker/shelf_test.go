package firecracker

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestShelf: jails share a copy, whose links don't show at the file itself; a
// file that was replaced gets another, and what nobody needs goes in the end.
func TestShelf(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := &shelf{dir: filepath.Join(dir, "shelf")}
	kernel := filepath.Join(dir, "vmlinux")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(kernel+".new", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(kernel+".new", kernel); err != nil {
			t.Fatal(err)
		}
	}
	get := func() string {
		t.Helper()
		path, err := s.get(kernel)
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	changed := func() int64 {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Stat(kernel, &st); err != nil {
			t.Fatal(err)
		}
		return st.Ctim.Nano()
	}
	write("one")
	before := changed()
	first := get()
	if err := os.Link(first, filepath.Join(dir, "in-a-jail")); err != nil {
		t.Fatal(err)
	}
	if raw, err := os.ReadFile(first); err != nil || string(raw) != "one" {
		t.Errorf("the copy is %q, %v", raw, err)
	}
	if again := get(); again != first || changed() != before {
		t.Errorf("copied to %s and %s; changed at %d, %d", first, again, before, changed())
	}
	write("two")
	second := get()
	if raw, err := os.ReadFile(second); err != nil || string(raw) != "two" {
		t.Errorf("the copy is %q, %v", raw, err)
	}
	// Both are old; a machine still has the first.
	old := time.Now().Add(-2 * shelfAge)
	for _, path := range []string{first, second} {
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	write("three")
	get()
	for path, want := range map[string]bool{first: true, second: false} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := s.get(filepath.Join(dir, "none")); err == nil {
		t.Error("copied what is not there")
	}
}
