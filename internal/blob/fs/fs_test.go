package fs_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/blob/blobtest"
	"github.com/nimbus-ci/nimbus/internal/blob/fs"
)

func open(t *testing.T) (*fs.Store, string) {
	t.Helper()
	dir := t.TempDir()
	s, err := fs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, dir
}

func TestStore(t *testing.T) {
	t.Parallel()
	blobtest.TestStore(t, func(t *testing.T) blobtest.Place {
		s, dir := open(t)
		return blobtest.Place{Store: s, Residue: func(t *testing.T) []string { return files(t, filepath.Join(dir, ".incoming")) }}
	})
}

// files are the paths of all that is below a folder.
func files(t *testing.T, dir string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if path != dir {
			found = append(found, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// readerFrom is an http.ResponseWriter that tells what its ReadFrom gets: that
// of net/http sends by sendfile if, and only if, it is a part of a file.
type readerFrom struct {
	httptest.ResponseRecorder

	got []io.Reader
}

func (r *readerFrom) ReadFrom(from io.Reader) (int64, error) {
	r.got = append(r.got, from)
	return io.Copy(&r.ResponseRecorder, from)
}

func TestCopyToAResponseKeepsSendfile(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	if _, err := s.Put(t.Context(), "a", strings.NewReader("0123456789"), 10); err != nil {
		t.Fatal(err)
	}
	whole := func() (io.ReadCloser, error) {
		r, _, err := s.Open(t.Context(), "a")
		return r, err
	}
	part := func() (io.ReadCloser, error) { return s.OpenRange(t.Context(), "a", 2, 5) }
	for want, open := range map[string]func() (io.ReadCloser, error){"0123456789": whole, "23456": part} {
		r, err := open()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		w := &readerFrom{ResponseRecorder: *httptest.NewRecorder()}
		if n, err := io.Copy(http.ResponseWriter(w), r); err != nil || n != int64(len(want)) || w.Body.String() != want {
			t.Errorf("%d bytes, %q, %v", n, w.Body, err)
		}
		if len(w.got) != 1 {
			t.Fatalf("ReadFrom was called %d times", len(w.got))
		}
		limited, ok := w.got[0].(*io.LimitedReader)
		if !ok {
			t.Fatalf("ReadFrom got a %T", w.got[0])
		}
		if _, ok := limited.R.(*os.File); !ok {
			t.Errorf("ReadFrom got a part of a %T", limited.R)
		}
	}
}

func TestOpenRemovesWhatACrashLeft(t *testing.T) {
	t.Parallel()
	s, dir := open(t)
	if _, err := s.Put(t.Context(), "org/whole", strings.NewReader("x"), 1); err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(dir, ".incoming", "half")
	if err := os.WriteFile(half, []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := fs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if got := files(t, dir); !slices.Equal(got, []string{".incoming", "org", "org/whole"}) {
		t.Errorf("left: %v", got)
	}
}

func TestFoldersGoWithTheirLastBlob(t *testing.T) {
	t.Parallel()
	s, dir := open(t)
	for _, key := range []string{"org/a/1", "org/a/2", "org/b"} {
		if _, err := s.Put(t.Context(), key, strings.NewReader("x"), 1); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct{ key, left string }{
		{"org/a/1", ".incoming org org/a org/a/2 org/b"},
		{"org/a/2", ".incoming org org/b"},
		{"org", ".incoming org org/b"}, // a folder is no blob
		{"org/b", ".incoming"},
	} {
		if err := s.Delete(t.Context(), step.key); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(files(t, dir), " "); got != step.left {
			t.Errorf("after %s: %s, want %s", step.key, got, step.left)
		}
	}
}

// TestFoldersComeAndGo: that a folder goes with its last blob is no failure of who
// just writes into it.
func TestFoldersComeAndGo(t *testing.T) {
	t.Parallel()
	s, dir := open(t)
	blobtest.ComesAndGoes(t, s, "f/g/a", "f/g/b", "f/h/c", "f/d")
	if got := files(t, dir); !slices.Equal(got, []string{".incoming"}) {
		t.Errorf("left: %v", got)
	}
}

func TestAddressedAgainIsModifiedNow(t *testing.T) {
	t.Parallel()
	s, dir := open(t)
	content := []byte("x")
	sum, err := s.PutAddressed(t.Context(), "cas", bytes.NewReader(content), 1)
	if err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-48 * time.Hour)
	if err := os.Chtimes(filepath.Join(dir, "cas", sum), old, old); err != nil {
		t.Fatal(err)
	}
	if _, err := s.PutAddressed(t.Context(), "cas", bytes.NewReader(content), 1); err != nil {
		t.Fatal(err)
	}
	found, err := s.List(t.Context(), "cas/", "", 0)
	if err != nil || len(found) != 1 || time.Since(found[0].ModifiedAt) > time.Hour {
		t.Errorf("%v, %v", found, err)
	}
}

// TestLinksAreNoBlobs: what somebody put into the folder by hand is not followed
// out of it.
func TestLinksAreNoBlobs(t *testing.T) {
	t.Parallel()
	s, dir := open(t)
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if r, _, err := s.Open(t.Context(), "link"); err == nil {
		r.Close()
		t.Error("a link out of the folder is read")
	}
	if found, err := s.List(t.Context(), "", "", 0); err != nil || len(found) != 0 {
		t.Errorf("%v, %v", found, err)
	}
}
