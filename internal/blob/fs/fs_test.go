package fs_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob/fs"
)

func open(t *testing.T) (*fs.Store, string) {
	t.Helper()
	dir := t.TempDir()
	s, err := fs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, dir
}

func TestPutAndOpen(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	info, err := s.Put(t.Context(), "org/workspaces/a", strings.NewReader("hello"), 5)
	if err != nil || info.Size != 5 || info.SHA256 != "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824" {
		t.Fatal(info, err)
	}
	r, size, err := s.Open(t.Context(), "org/workspaces/a")
	if err != nil || size != 5 {
		t.Fatal(size, err)
	}
	defer r.Close()
	if raw, err := io.ReadAll(r); err != nil || string(raw) != "hello" {
		t.Errorf("%q, %v", raw, err)
	}
	for range 2 {
		if err := s.Delete(t.Context(), "org/workspaces/a"); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Stat(t.Context(), "org/workspaces/a"); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		t.Error(err)
	}
}

func TestNothingIsSeenHalfWritten(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	if _, err := s.Put(t.Context(), "big", strings.NewReader("123456"), 5); nimbus.ErrorCode(err) != nimbus.CodeTooLarge {
		t.Errorf("over the bound: %v", err)
	}
	broken := errors.New("cut")
	if _, err := s.Put(t.Context(), "cut", io.MultiReader(strings.NewReader("12"), iotest.ErrReader(broken)), 5); !errors.Is(err, broken) {
		t.Errorf("cut: %v", err)
	}
	for _, key := range []string{"big", "cut"} {
		if _, err := s.Stat(t.Context(), key); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
			t.Errorf("%s is there: %v", key, err)
		}
	}
}

func TestKeysStayInside(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	for _, key := range []string{"", ".", "..", "../x", "/etc/passwd", "a/../b", "a//b", ".incoming/x", "a/.hidden", "a b", "a\x00b", strings.Repeat("a", 600)} {
		if _, err := s.Put(t.Context(), key, strings.NewReader("x"), 5); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
			t.Errorf("put %q: %v", key, err)
		}
		if _, _, err := s.Open(t.Context(), key); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
			t.Errorf("open %q: %v", key, err)
		}
	}
}
