package rootfs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/filesum"
)

// Draft is a root in the making, in a folder beside the others.
type Draft struct {
	store *Store
	dir   string
	held  *os.File
}

// Draft begins a root. The caller fills the file at its path, then publishes or
// discards it.
func (s *Store) Draft(ctx context.Context) (*Draft, error) {
	unlock, err := s.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	s.sweep()
	dir, err := os.MkdirTemp(s.dir, draftPrefix)
	if err != nil {
		return nil, fmt.Errorf("make folder of a new image: %w", err)
	}
	held, ok := hold(dir)
	if !ok {
		return nil, errors.Join(errors.New("lock folder of a new image"), os.RemoveAll(dir))
	}
	return &Draft{store: s, dir: dir, held: held}, nil
}

// Path is where the root file system is to be written.
func (d *Draft) Path() string { return filepath.Join(d.dir, rootFile) }

// Scratch is a file for whatever the making needs; it goes with the draft.
func (d *Draft) Scratch(name string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(d.dir, "scratch-"+name), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make scratch file: %w", err)
	}
	return f, nil
}

// ScratchDir is a folder for the same.
func (d *Draft) ScratchDir() (string, error) {
	dir, err := os.MkdirTemp(d.dir, "scratch-")
	if err != nil {
		return "", fmt.Errorf("make scratch folder: %w", err)
	}
	return dir, nil
}

// Publish measures the file, signs what it is, and puts it into its place.
func (d *Draft) Publish(ctx context.Context, m Manifest, p Provenance) (Root, error) {
	defer d.Discard()
	return d.publish(ctx, m, p)
}

func (d *Draft) publish(ctx context.Context, m Manifest, p Provenance) (Root, error) {
	if err := d.clear(); err != nil {
		return Root{}, err
	}
	var err error
	if m.Digest, m.Size, err = measure(d.Path()); err != nil {
		return Root{}, err
	}
	key, err := d.store.signer(ctx)
	if err != nil {
		return Root{}, err
	}
	signed, err := attest(m, p, key)
	if err != nil {
		return Root{}, err
	}
	unlock, err := d.store.lock(ctx)
	if err != nil {
		return Root{}, err
	}
	defer unlock()
	if have, err := d.store.Find(m.Digest); err == nil && d.store.Check(have) == nil {
		return have, nil // the same bytes came of another image
	}
	if err := d.commit(m, signed); err != nil {
		return Root{}, fmt.Errorf("publish image: %w", err)
	}
	return d.store.Find(m.Digest)
}

// commit makes all durable before the name, and the name in the end.
func (d *Draft) commit(m Manifest, signed envelope) error {
	disk, place := d.store.disk, d.store.rootDir(m.Digest)
	for name, v := range map[string]any{manifestFile: m, attestationFile: signed} {
		raw, err := json.MarshalIndent(v, "", "\t")
		if err != nil {
			return err
		}
		path := filepath.Join(d.dir, name)
		if err := errors.Join(disk.Write(path, append(raw, '\n'), 0o644), disk.Sync(path)); err != nil {
			return err
		}
	}
	if err := errors.Join(os.Chmod(d.Path(), 0o444), os.Chmod(d.dir, 0o755)); err != nil { //nolint:gosec // nothing in an image is secret
		return err
	}
	for _, path := range []string{d.Path(), d.dir} {
		if err := disk.Sync(path); err != nil {
			return err
		}
	}
	// What is there is broken, or it would have been taken.
	if err := d.store.toTrash(place); err != nil {
		return err
	}
	if err := disk.Rename(d.dir, place); err != nil {
		return err
	}
	return disk.Sync(d.store.dir)
}

// clear removes the scratch files.
func (d *Draft) clear() error {
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return fmt.Errorf("clear draft: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "scratch-") {
			if err := os.RemoveAll(filepath.Join(d.dir, e.Name())); err != nil {
				return fmt.Errorf("clear draft: %w", err)
			}
		}
	}
	return nil
}

// Discard removes the draft, unless it was published.
func (d *Draft) Discard() {
	os.RemoveAll(d.dir)
	d.held.Close()
}

// measure reads a whole file.
func measure(path string) (digest string, size int64, err error) {
	var b filesum.Book
	sum, err := b.Read(path)
	if err != nil {
		return "", 0, fmt.Errorf("read image: %w", err)
	}
	return digestOf(sum), sum.Bytes, nil
}

func digestOf(sum filesum.Sum) string { return "sha256:" + sum.SHA256 }
