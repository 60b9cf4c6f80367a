package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/filename"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/plainfile"
)

// Files of a snapshot.
const (
	StateFile    = "state"
	MemoryFile   = "memory"
	DiskFile     = "disk"
	manifestFile = "snapshot.json"

	// WorkingSetFile is no part of a snapshot, but a hint that machines made of
	// it may leave beside: which memory they need first.
	WorkingSetFile = "working-set"
)

// files are all but the manifest.
func files() []string { return []string{StateFile, MemoryFile, DiskFile} }

// draftPrefix begins the names of folders that are no snapshots yet.
const draftPrefix = ".draft-"

// draftAge is after how long a draft is one that a crash has left.
const draftAge = time.Hour

// Store is a folder of snapshots. Its folder is the agent's alone.
type Store struct {
	Dir string

	disk disk // nil for the real one
}

// disk is what Publish does to it: tests cut its power.
type disk interface {
	// Write makes a file.
	Write(path string, data []byte) error
	// Sync brings a file, or the names in a folder, to the disk.
	Sync(path string) error
	// Place puts a folder at another place, in one step. What was there takes
	// its own.
	Place(from, to string) error
}

func (s Store) onDisk() disk {
	if s.disk != nil {
		return s.disk
	}
	return realDisk{}
}

// Snapshot is one that is there.
type Snapshot struct {
	Manifest

	dir string
}

// Path is the path of one of its files.
func (s Snapshot) Path(file string) string { return filepath.Join(s.dir, file) }

// dir is a snapshot's folder. The name of an image may hold slashes.
func (s Store) dir(name string) string { return filepath.Join(s.Dir, filename.Of(name)) }

// Open finds the snapshot that fits. Codes: not_found; conflict with the
// reason why the one that there is may not be used.
func (s Store) Open(now Inputs) (Snapshot, error) {
	found, err := s.read(s.dir(now.Name()))
	if errors.Is(err, fs.ErrNotExist) {
		return Snapshot{}, nimbus.Errorf(nimbus.CodeNotFound, "there is no snapshot %s", now.Name()).WithHint("make it: nimbus snapshots create")
	}
	if err != nil {
		return Snapshot{}, refuse(now.Name(), err.Error())
	}
	if err := found.Check(now); err != nil {
		return Snapshot{}, err
	}
	return found, found.Untouched()
}

// Untouched tells whether nobody has written to the files since, at the price
// of a look at each. A monitor in the hands of its guest could write to the
// memory that others are made of; it can't hide that it did. Codes: conflict.
func (s Snapshot) Untouched() error {
	for name, then := range s.Files {
		now, err := stat(s.Path(name))
		if err != nil {
			return refuse(s.Name(), err.Error())
		}
		if now.Bytes != then.Bytes || now.Changed != then.Changed {
			return refuse(s.Name(), name+" was touched after it was made")
		}
	}
	return nil
}

// Verify reads all files, which takes a second or so: those whose sizes are what
// they should be. Codes: conflict.
func (s Snapshot) Verify(ctx context.Context) error {
	for _, name := range files() {
		now, err := stat(s.Path(name))
		if err == nil && now.Bytes != s.Files[name].Bytes {
			return refuse(s.Name(), name+" is not what was saved: it has another size")
		}
		digest, err := Digest(ctx, s.Path(name))
		if ctx.Err() != nil {
			return err // nothing is wrong with it
		}
		if err != nil {
			return refuse(s.Name(), err.Error())
		}
		if digest != s.Files[name].Digest {
			return refuse(s.Name(), name+" is not what was saved")
		}
	}
	return nil
}

// Broken is what can't be read as a snapshot. It is made again when it is needed.
type Broken struct {
	Folder string // its name in the store
	Why    error
}

// List returns what is there, by name, and what is broken.
func (s Store) List() (found []Snapshot, broken []Broken, err error) {
	entries, err := os.ReadDir(s.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("list snapshots: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), draftPrefix) {
			continue
		}
		snapshot, err := s.read(filepath.Join(s.Dir, e.Name()))
		if err == nil {
			found = append(found, snapshot)
		} else if !errors.Is(err, fs.ErrNotExist) || exists(filepath.Join(s.Dir, e.Name())) { // not removed meanwhile
			broken = append(broken, Broken{e.Name(), refuse(e.Name(), err.Error())})
		}
	}
	slices.SortFunc(found, func(a, b Snapshot) int { return strings.Compare(a.Name(), b.Name()) })
	return found, broken, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// maxManifest bounds what is read as a manifest, in bytes.
const maxManifest = 1 << 20

func (Store) read(dir string) (Snapshot, error) {
	raw, err := plainfile.Read(filepath.Join(dir, manifestFile), maxManifest)
	if err != nil {
		return Snapshot{}, fmt.Errorf("read manifest: %w", err)
	}
	s := Snapshot{dir: dir}
	if err := json.Unmarshal(raw, &s.Manifest); err != nil {
		return Snapshot{}, fmt.Errorf("decode manifest: %w", err)
	}
	for _, name := range files() {
		if _, ok := s.Files[name]; !ok {
			return Snapshot{}, fmt.Errorf("its manifest does not know %s", name)
		}
	}
	return s, nil
}

// Draft begins a snapshot: a folder to be filled with its files, then published
// or removed. What crashes leave, Tidy removes.
func (s Store) Draft() (dir string, err error) {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return "", fmt.Errorf("make folder of snapshots: %w", err)
	}
	if dir, err = os.MkdirTemp(s.Dir, draftPrefix); err != nil {
		return "", fmt.Errorf("make folder of a snapshot: %w", err)
	}
	return dir, nil
}

// Tidy removes drafts that nobody works on any more.
func (s Store) Tidy() error {
	old, err := filepath.Glob(filepath.Join(s.Dir, draftPrefix+"*"))
	if err != nil {
		return fmt.Errorf("look for old drafts: %w", err)
	}
	var errs []error
	for _, path := range old {
		if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) > draftAge {
			errs = append(errs, os.RemoveAll(path))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove old drafts: %w", err)
	}
	return nil
}

// Publish makes a filled draft the snapshot of its name, in one step. Machines
// that were made of one that it replaces keep the files that they have open.
func (s Store) Publish(ctx context.Context, draft string, in Inputs, now time.Time) (Snapshot, error) {
	d := s.onDisk()
	m := Manifest{Inputs: in, CreatedAt: now.UTC().Truncate(time.Second), Files: map[string]File{}}
	for _, name := range files() {
		f, err := seal(ctx, d, filepath.Join(draft, name))
		if err != nil {
			return Snapshot{}, err
		}
		m.Files[name] = f
	}
	raw, err := json.MarshalIndent(m, "", "\t")
	if err != nil {
		return Snapshot{}, fmt.Errorf("encode manifest: %w", err)
	}
	path := filepath.Join(draft, manifestFile)
	if err := d.Write(path, append(raw, '\n')); err != nil {
		return Snapshot{}, fmt.Errorf("write manifest: %w", err)
	}
	for _, path := range []string{path, draft} {
		if err := d.Sync(path); err != nil {
			return Snapshot{}, err
		}
	}
	place := s.dir(in.Name())
	if err := d.Place(draft, place); err != nil {
		return Snapshot{}, fmt.Errorf("publish snapshot: %w", err)
	}
	if err := d.Sync(s.Dir); err != nil {
		return Snapshot{}, err
	}
	if err := os.RemoveAll(draft); err != nil { // the one before, if there was one
		return Snapshot{}, fmt.Errorf("remove the snapshot before: %w", err)
	}
	return s.read(place)
}

// Remove removes a snapshot of that name, be there one or not.
func (s Store) Remove(name string) error {
	if err := os.RemoveAll(s.dir(name)); err != nil {
		return fmt.Errorf("remove snapshot: %w", err)
	}
	return nil
}
