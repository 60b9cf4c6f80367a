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

	"github.com/nimbus-ci/nimbus"
)

// Ref is what a name means on this host.
type Ref struct {
	Name   string    `json:"name"`
	Digest string    `json:"digest"` // of the root
	At     time.Time `json:"at"`     // when that was found out
}

// SetRef gives a name to a root.
func (s *Store) SetRef(ctx context.Context, r Ref) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return s.put(s.refPath(r.Name), r)
}

func (s *Store) refPath(name string) string {
	return filepath.Join(s.dir, refsDir, fileName(name)+".json")
}

// Ref returns what a name means, and the root. Codes: not_found.
func (s *Store) Ref(name string) (Ref, Root, error) {
	var r Ref
	err := readJSON(s.refPath(name), &r)
	if errors.Is(err, fs.ErrNotExist) {
		return Ref{}, Root{}, nimbus.Errorf(nimbus.CodeNotFound, "there is no image %q on this host", name)
	}
	if err != nil {
		return Ref{}, Root{}, fmt.Errorf("look up image %q: %w", name, err)
	}
	root, err := s.Find(r.Digest)
	return r, root, err
}

// Refs lists the names whose roots are there, sorted, and for each that can't be
// read an error.
func (s *Store) Refs() (refs []Ref, broken []error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, refsDir))
	if err != nil {
		return nil, nil // there is no store yet
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		var r Ref
		err := readJSON(filepath.Join(s.dir, refsDir, e.Name()), &r)
		if err == nil && s.refPath(r.Name) != filepath.Join(s.dir, refsDir, e.Name()) {
			err = fmt.Errorf("it holds what %q means", r.Name)
		}
		if err != nil {
			broken = append(broken, nimbus.Errorf(nimbus.CodeInternal, "what the name of %s means can't be read: %w", e.Name(), err).
				WithHint("remove %s, and import the image again", filepath.Join(s.dir, refsDir, e.Name())))
			continue
		}
		if _, err := s.Find(r.Digest); err == nil {
			refs = append(refs, r)
		}
	}
	slices.SortFunc(refs, func(a, b Ref) int { return strings.Compare(a.Name, b.Name) })
	return refs, broken
}

// FromSource finds a root that was converted from the image of that digest for
// that architecture.
func (s *Store) FromSource(sourceDigest, arch string) (Root, bool) {
	roots, _ := s.List()
	for _, r := range roots {
		if r.SourceDigest == sourceDigest && r.Arch == arch {
			return r, true
		}
	}
	return Root{}, false
}
