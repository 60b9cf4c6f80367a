package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/source"
)

// Use says that a sandbox uses a root, until Release. It is a file: who uses
// what outlives the process that said so.
func (s *Store) Use(ctx context.Context, r Root, user string) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := s.Find(r.Digest); err != nil {
		return err // removed since
	}
	if err := os.WriteFile(s.usePath(user), []byte(r.Digest), 0o644); err != nil {
		return fmt.Errorf("note the use of an image: %w", err)
	}
	now := time.Now()
	if err := os.Chtimes(r.dir, now, now); err != nil {
		return fmt.Errorf("note the use of an image: %w", err)
	}
	return nil
}

// Release ends a use. There may be none.
func (s *Store) Release(user string) error {
	if err := os.Remove(s.usePath(user)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("end the use of an image: %w", err)
	}
	return nil
}

// Users lists who uses roots, of those whose names begin so.
func (s *Store) Users(prefix string) []string {
	entries, err := os.ReadDir(filepath.Join(s.dir, usesDir))
	if err != nil {
		return nil
	}
	var users []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			users = append(users, e.Name())
		}
	}
	return users
}

func (s *Store) usePath(user string) string { return filepath.Join(s.dir, usesDir, fileName(user)) }

// used are the digests that are in use.
func (s *Store) used() (map[string]bool, error) {
	used := map[string]bool{}
	for _, user := range s.Users("") {
		raw, err := os.ReadFile(filepath.Join(s.dir, usesDir, user))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read the uses of images: %w", err)
		}
		used[string(raw)] = true
	}
	return used, nil
}

// Bounds say what Collect keeps. Zero fields bound nothing.
type Bounds struct {
	Bytes  int64         // of all roots together
	Unused time.Duration // how long one may lie unused
	Free   int64         // bytes to be had at least, as far as there are roots that may go
	Local  bool          // whether those may go, too, that no registry has
	Broken bool          // whether to remove those that can't be read or trusted
	Now    time.Time
}

// Collect removes roots by the bounds, those first that were not used for the
// longest time, and never one that is in use. It returns what it removed; with
// dry, what it would have.
func (s *Store) Collect(ctx context.Context, b Bounds, dry bool) ([]Root, error) {
	if !dry { // who only asks may have no right to write here
		unlock, err := s.lock(ctx)
		if err != nil {
			return nil, err
		}
		defer unlock()
	}
	used, err := s.used()
	if err != nil {
		return nil, err
	}
	roots, _ := s.List()
	doomed := choose(roots, used, b)
	if b.Broken {
		doomed = append(doomed, s.broken(used)...)
	}
	if dry {
		return doomed, nil
	}
	for i, r := range doomed {
		if err := s.toTrash(r.dir); err != nil {
			return doomed[:i], err
		}
	}
	s.forgetRefs()
	s.sweep()
	return doomed, nil
}

// choose is the decision.
func choose(roots []Root, used map[string]bool, b Bounds) (doomed []Root) {
	var total, freed int64
	for _, r := range roots {
		total += r.Size
	}
	oldest := slices.SortedFunc(slices.Values(roots), func(a, b Root) int { return a.UsedAt.Compare(b.UsedAt) })
	for _, r := range oldest {
		tooMuch := b.Bytes > 0 && total > b.Bytes
		tooOld := b.Unused > 0 && b.Now.Sub(r.UsedAt) > b.Unused
		if !used[r.Digest] && (b.Local || source.IsRegistry(r.Source)) && (tooMuch || tooOld || freed < b.Free) {
			doomed, total, freed = append(doomed, r), total-r.Size, freed+r.Size
		}
	}
	return doomed
}

// broken are the roots that no job would get.
func (s *Store) broken(used map[string]bool) (found []Root) {
	dirs, _ := filepath.Glob(filepath.Join(s.dir, "sha256-*")) // the pattern is right
	for _, dir := range dirs {
		digest := "sha256:" + filepath.Base(dir)[len("sha256-"):]
		r, err := s.Find(digest)
		if err == nil {
			err = s.Verify(r)
		}
		if err != nil && !used[digest] {
			found = append(found, Root{Manifest: Manifest{Digest: digest, Size: r.Size, Source: r.Source}, UsedAt: r.UsedAt, dir: dir})
		}
	}
	return found
}

// toTrash takes a root out of its place in one step, if there is one.
func (s *Store) toTrash(dir string) error {
	trash, err := os.MkdirTemp(s.dir, trashPrefix)
	if err != nil {
		return fmt.Errorf("remove image: %w", err)
	}
	err = s.disk.Rename(dir, filepath.Join(trash, filepath.Base(dir)))
	if errors.Is(err, fs.ErrNotExist) {
		return os.Remove(trash)
	}
	if err != nil {
		return fmt.Errorf("remove image: %w", err)
	}
	return nil
}

// forgetRefs removes the names whose roots are gone. One that can't be read is
// left for people to see.
func (s *Store) forgetRefs() {
	files, _ := filepath.Glob(filepath.Join(s.dir, refsDir, "*.json")) // the pattern is right
	for _, path := range files {
		var r Ref
		if err := readJSON(path, &r); err != nil {
			continue
		}
		if _, err := os.Stat(s.rootDir(r.Digest)); errors.Is(err, fs.ErrNotExist) {
			os.Remove(path)
		}
	}
}

// Sweep removes what processes left behind that were cut off.
func (s *Store) Sweep(ctx context.Context) error {
	if _, err := os.Stat(s.dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	s.sweep()
	return nil
}

func (s *Store) sweep() {
	for _, pattern := range []string{draftPrefix + "*", trashPrefix + "*"} {
		dirs, _ := filepath.Glob(filepath.Join(s.dir, pattern)) // the pattern is right
		for _, dir := range dirs {
			if held, ok := hold(dir); ok {
				os.RemoveAll(dir)
				held.Close()
			}
		}
	}
	for _, dir := range []string{refsDir, keysDir} {
		drafts, _ := filepath.Glob(filepath.Join(s.dir, dir, ".new-*"))
		for _, path := range drafts { // nobody is writing one: the lock is ours
			os.Remove(path)
		}
	}
}
