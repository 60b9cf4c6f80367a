package cache

import (
	"context"
	"errors"
	"fmt"

	"github.com/nimbus-ci/nimbus"
)

// Find looks in each scope that the caller reads, in order: for key exactly, for
// the newest that begins with it, then the same for each restore key. An entry
// that was found is kept for some minutes, so that it can be opened. ok is false
// where nothing is. Codes: invalid.
func (s *Service) Find(ctx context.Context, c Caller, key string, restore []string, version string) (e Entry, ok bool, err error) {
	if err := checkTheirs(version); err != nil {
		return Entry{}, false, err
	}
	in, err := ranges(c, key, restore, version)
	if err != nil {
		return Entry{}, false, err
	}
	return s.find(ctx, c, version, in)
}

// Get is Find of a key exactly.
func (s *Service) Get(ctx context.Context, c Caller, key, version string) (e Entry, ok bool, err error) {
	if err := errors.Join(c.check(), checkNames(key, version)); err != nil {
		return Entry{}, false, err
	}
	in := make([]Range, len(c.Read))
	for i, scope := range c.Read {
		in[i] = exactly(key)
		in[i].Scope = scope
	}
	return s.find(ctx, c, version, in)
}

// find looks through ranges, in order.
func (s *Service) find(ctx context.Context, c Caller, version string, in []Range) (e Entry, ok bool, err error) {
	if len(in) == 0 {
		return Entry{}, false, nil
	}
	for range findTries {
		e, ok, err = s.store.FindCache(ctx, c.OrgID, c.Repo, version, in)
		if err != nil {
			return Entry{}, false, fmt.Errorf("look for an entry: %w", err)
		}
		if !ok {
			s.uses(c.OrgID, c.Repo, Use{Misses: 1})
			return Entry{}, false, nil
		}
		// It may have made room meanwhile; then there may be another.
		if ok, err = s.pin(ctx, e.ID); err != nil {
			return Entry{}, false, err
		}
		if ok {
			s.uses(c.OrgID, c.Repo, Use{Hits: 1})
			return e, true, nil
		}
	}
	s.uses(c.OrgID, c.Repo, Use{Misses: 1})
	return Entry{}, false, nil
}

// findTries is how often is looked for an entry that is still there a moment
// later.
const findTries = 3

// ranges are the keys that are looked for, in order.
func ranges(c Caller, key string, restore []string, version string) ([]Range, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	if 1+len(restore) > MaxKeys {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "%d keys are too many, %d is the most", 1+len(restore), MaxKeys)
	}
	keys := append([]string{key}, restore...)
	for _, k := range keys {
		if err := checkNames(k, version); err != nil {
			return nil, err
		}
	}
	in := make([]Range, 0, 2*len(keys)*len(c.Read))
	for _, scope := range c.Read {
		for _, k := range keys {
			prefix := Beginning(k)
			prefix.Scope = scope
			same := exactly(k)
			same.Scope = scope
			in = append(in, same, prefix)
		}
	}
	return in, nil
}

// exactly is the range of one key: none has a NUL, which is the least that could
// follow.
func exactly(key string) Range { return Range{From: key, To: key + "\x00"} }

// Beginning is the range of keys that begin with a text. No UTF-8 has a byte 0xff,
// so that raising the last one gives its end.
func Beginning(prefix string) Range {
	if prefix == "" {
		return Range{To: "\xff"}
	}
	last := len(prefix) - 1
	return Range{From: prefix, To: prefix[:last] + string([]byte{prefix[last] + 1})}
}

// Entry is one that can be found. Codes: not_found.
func (s *Service) Entry(ctx context.Context, entryID int64) (Entry, error) {
	e, err := s.store.CacheEntry(ctx, entryID)
	if err != nil {
		return Entry{}, fmt.Errorf("read an entry: %w", err)
	}
	return e, nil
}
