// Package rootfs keeps the root file systems that were converted from container
// images, by the digest of their bytes:
//
//	sha256-HEX/          one of them, complete or not there at all
//	  root.squashfs
//	  manifest.json      what it is and what it came from
//	  attestation.json   the same, signed: see attest.go
//	refs/NAME.json       which of them a name means
//	uses/USER            which of them a sandbox uses
//	keys/                the key that signs, and the ones that are trusted
//	.draft-*, .trash-*   being made, being removed; swept when their owner is gone
//
// A folder gets its name by one rename, after all in it was synced: a power cut
// leaves either all of it or a draft. Processes share a store; what they change
// together they change under its lock.
package rootfs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/durable"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/filesum"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/plainfile"
)

// Files of a root, and folders of a store.
const (
	rootFile        = "root.squashfs"
	manifestFile    = "manifest.json"
	attestationFile = "attestation.json"
	refsDir         = "refs"
	usesDir         = "uses"
	keysDir         = "keys"
	draftPrefix     = ".draft-"
	trashPrefix     = ".trash-"
)

// maxJSON bounds what is read as a manifest, attestation or reference.
const maxJSON = 1 << 20

// Manifest says what a root is.
type Manifest struct {
	Digest string `json:"digest"` // sha256:HEX of root.squashfs
	Size   int64  `json:"size"`
	Arch   string `json:"arch"`
	// Source is the reference that it was converted from, SourceDigest the
	// digest of that image's manifest.
	Source       string    `json:"source"`
	SourceDigest string    `json:"source_digest"`
	Files        int       `json:"files"`
	Env          []string  `json:"env,omitempty"` // KEY=VALUE, of the image
	ConvertedAt  time.Time `json:"converted_at"`
	Converter    string    `json:"converter"` // what wrote the file, with its version
}

// Root is one root file system of a store.
type Root struct {
	Manifest

	UsedAt time.Time
	dir    string
}

// Path is that of the file system, a squashfs.
func (r Root) Path() string { return filepath.Join(r.dir, rootFile) }

// Store is a folder of roots.
type Store struct {
	dir   string
	disk  durable.Disk
	files filesum.Book
}

// Open opens the store in dir, which is made when something is put there.
func Open(dir string) *Store {
	return &Store{dir: dir, disk: durable.Real{}}
}

// digestForm is what a digest looks like. It becomes a file's name.
var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

func (s *Store) rootDir(digest string) string {
	return filepath.Join(s.dir, "sha256-"+digest[len("sha256:"):])
}

// Find returns the root of that digest. Codes: not_found.
func (s *Store) Find(digest string) (Root, error) {
	if !digestForm.MatchString(digest) {
		return Root{}, nimbus.Errorf(nimbus.CodeInvalid, "%q is no digest", digest)
	}
	r := Root{dir: s.rootDir(digest)}
	err := readJSON(filepath.Join(r.dir, manifestFile), &r.Manifest)
	if errors.Is(err, fs.ErrNotExist) {
		return Root{}, nimbus.Errorf(nimbus.CodeNotFound, "there is no image %s on this host", digest)
	}
	if err != nil {
		return Root{}, fmt.Errorf("open image %s: %w", digest, err)
	}
	if r.Digest != digest {
		return Root{}, changed(r, "its manifest says that it is %q", r.Digest)
	}
	info, err := os.Stat(r.dir)
	if err != nil {
		return Root{}, fmt.Errorf("open image %s: %w", digest, err)
	}
	r.UsedAt = info.ModTime()
	return r, nil
}

// List returns all roots that are whole, sorted by digest, and for the others
// an error each.
func (s *Store) List() (roots []Root, broken []error) {
	dirs, err := filepath.Glob(filepath.Join(s.dir, "sha256-*"))
	if err != nil {
		return nil, []error{fmt.Errorf("list images: %w", err)}
	}
	for _, dir := range dirs {
		digest := "sha256:" + filepath.Base(dir)[len("sha256-"):]
		if r, err := s.Find(digest); err != nil {
			broken = append(broken, err)
		} else {
			roots = append(roots, r)
		}
	}
	return roots, broken
}

// lock keeps other users of the store out for the moment that a change takes.
func (s *Store) lock(ctx context.Context) (unlock func(), err error) {
	for _, dir := range []string{s.dir, filepath.Join(s.dir, refsDir), filepath.Join(s.dir, usesDir)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("make folder of images: %w", durable.OrReadOnly(err))
		}
	}
	unlock, err = flock(ctx, filepath.Join(s.dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("lock images: %w", durable.OrReadOnly(err))
	}
	return unlock, nil
}

// flock waits until nobody else has the file's lock.
func flock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	const interval = 20 * time.Millisecond
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, err
		}
		select {
		case <-time.After(interval):
		case <-ctx.Done():
			f.Close()
			return nil, context.Cause(ctx)
		}
	}
}

// Lock waits until no other process does what the name says: converting one
// image, say.
func (s *Store) Lock(ctx context.Context, name string) (unlock func(), err error) {
	dir := filepath.Join(s.dir, "locks")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make folder of images: %w", err)
	}
	unlock, err = flock(ctx, filepath.Join(dir, fileName(name)))
	if err != nil {
		return nil, fmt.Errorf("wait for another process: %w", err)
	}
	return unlock, nil
}

func readJSON(path string, v any) error {
	raw, err := plainfile.Read(path, maxJSON)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("decode %s: %w", filepath.Base(path), err)
	}
	return nil
}
