package worktree

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"sync/atomic"

	"github.com/nimbus-ci/nimbus"
)

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func runGit(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=n", "-c", "user.email=n@example.com"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
}

func TestListInGit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	runGit(t, dir, "init", "-q")
	write(t, dir, ".gitignore", "*.log\n")
	write(t, dir, "tracked", "")
	write(t, dir, "deleted", "")
	write(t, dir, "with space/and\nnewline", "")
	runGit(t, dir, "add", ".")
	runGit(t, dir, "commit", "-qm", "one")
	if err := os.Remove(filepath.Join(dir, "deleted")); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "new", "")
	write(t, dir, "noise.log", "")
	inner := filepath.Join(dir, "inner")
	if err := os.Mkdir(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	runGit(t, inner, "init", "-q")
	write(t, inner, "file", "")

	got, err := List(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{".gitignore", "inner/file", "new", "tracked", "with space/and\nnewline"}, got); diff != "" {
		t.Error(diff)
	}
	sub, err := List(t.Context(), filepath.Join(dir, "with space"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"and\nnewline"}, sub); diff != "" {
		t.Error(diff)
	}
}

func TestPackAndUnpack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "a/file", "hello")
	if err := os.Chmod(filepath.Join(dir, "a/file"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("file", filepath.Join(dir, "a/link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	names, err := List(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	p := &Packer{Dir: dir, Names: append(names, "gone")}
	var out bytes.Buffer
	if err := p.Pack(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	if n, size := p.Progress(); n != len(p.Names) || size != int64(out.Len()) {
		t.Errorf("progress: %d names, %d bytes", n, size)
	}
	if diff := cmp.Diff([]string{"pipe"}, p.Skipped()); diff != "" {
		t.Error(diff)
	}
	type entry struct {
		Name, Link, Content string
		Mode                int64
	}
	z, err := zstd.NewReader(&out)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	var got []entry
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, entry{h.Name, h.Linkname, string(content), h.Mode})
	}
	want := []entry{{"a/", "", "", 0o755}, {"a/file", "", "hello", 0o750}, {"a/link", "file", "", 0o777}, {"empty/", "", "", 0o755}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestPackIsBounded(t *testing.T) {
	t.Parallel()
	var written atomic.Int64
	written.Store(MaxPackedBytes - 1)
	w := &limitedWriter{w: io.Discard, written: &written}
	if _, err := w.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := w.Write([]byte("x")); nimbus.ErrorCode(err) != nimbus.CodeTooLarge || nimbus.ErrorHint(err) == "" {
		t.Errorf("got %v", err)
	}
}
