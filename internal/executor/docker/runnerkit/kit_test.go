package runnerkit_test

import (
	"debug/elf"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/docker/runnerkit"
	"github.com/nimbus-ci/nimbus/internal/executor/docker/runnerkit/runnerkittest"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
)

// TestLay looks at what becomes of an image: what is laid, what is left out, and
// that nothing in it asks for the system that it was made for.
func TestLay(t *testing.T) {
	t.Parallel()
	store := runnerkittest.Image(t, "")
	img, err := store.Open(nimbus.DefaultImage)
	if err != nil {
		t.Fatal(err)
	}
	s := &runnerkit.Store{Dir: t.TempDir()}
	k, err := s.Get(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range k.Binds() {
		if _, err := os.Stat(b.From); err != nil {
			t.Errorf("%s: %v", b.To, err)
		}
	}
	for _, name := range []string{"runner/externals/node20_alpine", "runner/run.sh"} {
		if _, err := os.Stat(filepath.Join(k.Dir, name)); err == nil {
			t.Errorf("it has %s", name)
		}
	}
	for _, name := range []string{"runner/bin/Runner.Listener", "runner/externals/node20/bin/node"} {
		if got := loaderOf(t, filepath.Join(k.Dir, name)); got != runnerkit.LibcDir+"/ld.so" {
			t.Errorf("%s asks for %q", name, got)
		}
	}
	loader, err := os.ReadFile(filepath.Join(k.Dir, "glibc/ld.so"))
	if err != nil {
		t.Fatal(err)
	}
	for _, place := range []string{"\x00/lib/\x00", "/usr/lib/x86_64", "/etc/ld.so.cache", "/etc/ld.so.preload"} {
		if strings.Contains(string(loader), place) {
			t.Errorf("its loader looks at %q", place)
		}
	}
	again, err := s.Get(t.Context(), img)
	if err != nil || again != k {
		t.Errorf("at the next time %v, %v", again, err)
	}
	if err := s.Prune([]string{k.ID()}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(k.Dir); err != nil {
		t.Errorf("one that is kept: %v", err)
	}
	if err := s.Prune(nil); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(s.Dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestNothingToLay: the image has the stand-in alone.
func TestNothingToLay(t *testing.T) {
	t.Parallel()
	_, err := (&runnerkit.Store{Dir: t.TempDir()}).Get(t.Context(), image.Image{Manifest: image.Manifest{Runner: "stand-in"}})
	if nimbus.ErrorCode(err) != nimbus.CodeNotFound || !strings.Contains(nimbus.ErrorHint(err), "nimbus images build") {
		t.Errorf("%v, %s", err, nimbus.ErrorHint(err))
	}
}

// loaderOf is the loader that a program asks for.
func loaderOf(t *testing.T, path string) string {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			raw := make([]byte, p.Filesz)
			if _, err := p.ReadAt(raw, 0); err != nil {
				t.Fatal(err)
			}
			return strings.TrimRight(string(raw), "\x00")
		}
	}
	return ""
}
