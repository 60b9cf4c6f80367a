package fs

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/nimbus-ci/nimbus/internal/blob"
)

// List implements blob.Store. It reads the folders on the way whole.
func (s *Store) List(ctx context.Context, prefix, after string, most int) ([]blob.Listed, error) {
	prefix, after, most, err := blob.CheckList(prefix, after, most)
	if err != nil {
		return nil, err
	}
	l := &listing{store: s, prefix: prefix, after: after, most: most}
	if err := l.folder(ctx, prefix[:strings.LastIndexByte(prefix, '/')+1]); err != nil {
		return nil, fmt.Errorf("list blobs: %w", err)
	}
	return l.found, nil
}

// listing is one List under way.
type listing struct {
	store         *Store
	prefix, after string
	most          int
	found         []blob.Listed
}

// folder lists one, whose name is "" or ends in a slash.
func (l *listing) folder(ctx context.Context, dir string) error {
	entries, err := l.store.readDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if len(l.found) == l.most {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		key := dir + e
		switch {
		case !strings.HasPrefix(key, l.prefix):
		case strings.HasSuffix(key, "/"):
			if key < l.after && !strings.HasPrefix(l.after, key) {
				continue // all that is in it comes before
			}
			if err := l.folder(ctx, key); err != nil {
				return err
			}
		case key > l.after:
			if info, err := l.store.root.Lstat(key); err == nil { // otherwise it was deleted meanwhile
				l.found = append(l.found, blob.Listed{Key: key, Size: info.Size(), ModifiedAt: info.ModTime()})
			}
		}
	}
	return nil
}

// readDir returns the names of what is in a folder, those of folders with a slash
// at their end: so that their order is that of the keys below them. Nothing
// where it isn't there.
func (s *Store) readDir(dir string) ([]string, error) {
	d, err := s.root.Open(cmp.Or(strings.TrimSuffix(dir, "/"), "."))
	if missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.Close()
	found, err := d.ReadDir(-1)
	if err != nil && !missing(err) {
		return nil, err
	}
	names := make([]string, 0, len(found))
	for _, e := range found {
		switch {
		case strings.HasPrefix(e.Name(), "."):
		case e.IsDir():
			names = append(names, e.Name()+"/")
		case e.Type().IsRegular():
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}
