// Package runnerkit takes GitHub's own runner out of an image that Nimbus built
// and makes it independent of any other: with a loader, libraries and root
// certificates of its own, it runs beside whatever image a container has, one
// with another libc too. A kit is laid once and never changes; containers have
// it read-only.
package runnerkit

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/images/runner"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
)

// Places in a container. Programs and libraries of a kit have them inside, where
// the ones of the image's own system were: none may be longer than those.
const (
	LibcDir = "/.nimbus/glibc"
	SSLDir  = "/.nimbus/ssl"
	loader  = LibcDir + "/ld.so"
	libs    = LibcDir + "/lib"
)

// Bounds of what is taken: of all, and of one file.
const (
	layTimeout = 2 * time.Minute
	// layAgain is when one that could not be laid is tried again: until then no
	// container waits for that.
	layAgain = time.Minute
	maxBytes = 4 << 30
	maxFile  = 512 << 20
	// enough of a digest to name a folder by.
	enough      = 32
	draftPrefix = ".draft-"
)

// Kit is a laid one: its folder, on this machine. The zero value has no parts.
type Kit struct{ Dir string }

// ID names what the kit was made of.
func (k Kit) ID() string { return filepath.Base(k.Dir) }

// Bind is a part of a kit and where a container has it.
type Bind struct{ From, To string }

// Binds are all parts, outer folders first. What GitHub's runner writes beside
// its programs goes to a folder of the container's own at runner.OfficialDir.
func (k Kit) Binds() []Bind {
	if k.Dir == "" {
		return nil
	}
	below := func(name string) Bind {
		return Bind{filepath.Join(k.Dir, "runner", name), runner.OfficialDir + "/" + name}
	}
	return []Bind{
		{filepath.Join(k.Dir, "glibc"), LibcDir}, {filepath.Join(k.Dir, "ssl"), SSLDir},
		below("bin"), below("externals"), below(filepath.Base(runner.Inside)),
	}
}

// Store is a folder of kits.
type Store struct {
	Dir string

	mu     sync.Mutex // held while one is laid
	failed failure
}

// failure is why the last kit was not laid.
type failure struct {
	dir string
	at  time.Time
	err error
}

// Get returns the kit of an image, and lays it at the first time, which takes
// seconds. Codes: not_found where the image has no runner of GitHub's.
func (s *Store) Get(ctx context.Context, img image.Image) (Kit, error) {
	if !strings.HasPrefix(img.Runner, image.OfficialPrefix) {
		return Kit{}, nimbus.Errorf(nimbus.CodeNotFound, "GitHub's own runner is not on this host").
			WithHint("fetch it, on the host: nimbus images build")
	}
	if len(img.RootDigest()) < enough {
		return Kit{}, nimbus.Errorf(nimbus.CodeInternal, "the manifest of image %q has no digest of its root", img.Name).
			WithHint("build it again: nimbus images build %s", img.Name)
	}
	k := Kit{filepath.Join(s.Dir, img.RootDigest()[:enough])}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := os.Stat(k.Dir); err == nil {
		return k, nil
	}
	if s.failed.dir == k.Dir && time.Since(s.failed.at) < layAgain {
		return Kit{}, s.failed.err
	}
	// It is not one container's alone.
	laying, cancel := context.WithTimeout(context.WithoutCancel(ctx), layTimeout)
	defer cancel()
	if err := s.lay(laying, img, k); err != nil {
		s.failed = failure{k.Dir, time.Now(), fmt.Errorf("bring GitHub's runner to containers: %w", err)}
		return Kit{}, s.failed.err
	}
	return k, nil
}

// Prune removes kits that are not kept, and what a crash has left of laying one.
// In a container that has one still, it would be missing.
func (s *Store) Prune(keep []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	entries, err := os.ReadDir(s.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("list runners for containers: %w", err)
	}
	for _, e := range entries {
		if slices.Contains(keep, e.Name()) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(s.Dir, e.Name())); err != nil {
			return fmt.Errorf("remove a runner for containers: %w", err)
		}
	}
	return nil
}

// lay makes a kit beside its place, and moves it there once it is whole.
func (s *Store) lay(ctx context.Context, img image.Image, k Kit) error {
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return err
	}
	draft, err := os.MkdirTemp(s.Dir, draftPrefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(draft)
	root, err := os.OpenRoot(draft)
	if err != nil {
		return err
	}
	defer root.Close()
	l := &layer{root: root, arch: archOf(img.Arch)}
	if l.arch.triplet == "" {
		return nimbus.Errorf(nimbus.CodeUnsupported, "it is not known where %s has its libraries", img.Arch)
	}
	if err := img.Verify(); err != nil {
		return err
	}
	if err := l.unpack(ctx, img.Root()); err != nil {
		return err
	}
	if err := l.finish(); err != nil {
		return err
	}
	if err := os.Chmod(draft, 0o755); err != nil { //nolint:gosec // nothing in it is secret
		return err
	}
	return os.Rename(draft, k.Dir)
}

// layer fills the folder of a kit.
type layer struct {
	root   *os.Root
	arch   arch
	bytes  int64
	needed map[string][]string // libraries by the program that wants them
}

// unpack takes of an image's root file system what belongs to a kit.
func (l *layer) unpack(ctx context.Context, squashfs string) error {
	program, err := exec.LookPath("sqfs2tar")
	if err != nil {
		return nimbus.Errorf(nimbus.CodeUnavailable, "sqfs2tar is not installed").WithHint("on Debian: apt-get install squashfs-tools-ng")
	}
	// All of it: with several folders to choose, 1.2.0 does not come to an end.
	cmd := exec.CommandContext(ctx, program, "--no-hard-links", "--no-xattr", squashfs)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	err = l.takeAll(tar.NewReader(out))
	if err != nil {
		out.Close() // it may still be writing
	}
	if waitErr := cmd.Wait(); waitErr != nil && err == nil {
		err = fmt.Errorf("read the image: %w: %s", waitErr, bytes.TrimSpace(stderr.Bytes()))
	}
	return err
}

func (l *layer) takeAll(r *tar.Reader) error {
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the image: %w", err)
		}
		name := l.place(path.Clean(h.Name))
		if name == "" {
			continue
		}
		if err := l.take(name, h, r); err != nil {
			return fmt.Errorf("lay %s: %w", h.Name, err)
		}
	}
}

// place is where a file of the image is in the kit, "" for none of it.
func (l *layer) place(name string) string {
	dir, base := path.Split(name)
	switch {
	case name == "etc/ssl/certs/ca-certificates.crt":
		return "ssl/cert.pem"
	case name == "etc/ssl/openssl.cnf":
		return "ssl/openssl.cnf"
	case dir == l.arch.libs()+"/" && base == l.arch.loader:
		return "glibc/ld.so"
	case dir == l.arch.libs()+"/" && strings.Contains(base, ".so"):
		return "glibc/lib/" + base
	}
	rest, ok := strings.CutPrefix(name, strings.TrimPrefix(runner.OfficialDir, "/")+"/")
	if !ok {
		return ""
	}
	top, below, _ := strings.Cut(rest, "/")
	if top == "externals" && strings.HasSuffix(strings.SplitN(below, "/", 2)[0], "_alpine") {
		return "" // for containers that a job starts itself
	}
	if top == "bin" || top == "externals" || rest == path.Base(runner.Inside) {
		return "runner/" + rest
	}
	return ""
}

func (l *layer) take(name string, h *tar.Header, r io.Reader) error {
	if err := l.root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return l.root.MkdirAll(name, 0o755)
	case tar.TypeSymlink:
		return l.root.Symlink(h.Linkname, name)
	case tar.TypeReg:
	default:
		return nil
	}
	if l.bytes += h.Size; h.Size > maxFile || l.bytes > maxBytes {
		return nimbus.Errorf(nimbus.CodeTooLarge, "it is larger than any runner")
	}
	f, err := l.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, h.FileInfo().Mode().Perm()|0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	if err == nil {
		err = l.relocate(name, f)
	}
	return errors.Join(err, f.Close())
}

// finish looks whether the kit is whole: one that lacks a library would end
// in the midst of a job.
func (l *layer) finish() error {
	for _, name := range []string{"runner/bin/Runner.Listener", "runner/externals", "runner/" + path.Base(runner.Inside), "glibc/ld.so", "ssl/cert.pem"} {
		if _, err := l.root.Stat(name); err != nil {
			return nimbus.Errorf(nimbus.CodeUnavailable, "the image has not all of it: %w", err).WithHint("build it again: nimbus images build")
		}
	}
	for program, libraries := range l.needed {
		for _, library := range libraries {
			if library == l.arch.loader {
				continue
			}
			_, beside := l.root.Stat(path.Join(path.Dir(program), library))
			if _, err := l.root.Stat("glibc/lib/" + library); err != nil && beside != nil {
				return nimbus.Errorf(nimbus.CodeUnavailable, "%s needs %s, which the image has not", path.Base(program), library).
					WithHint("build it again: nimbus images build")
			}
		}
	}
	// Some ask the loader for itself by name.
	return l.root.Symlink("../ld.so", "glibc/lib/"+l.arch.loader)
}
