package cache

import (
	"context"
	"fmt"

	"github.com/nimbus-ci/nimbus"
)

// Find looks in each scope that the caller reads, in order: for key exactly, for
// the newest that begins with it, then the same for each restore key. An entry
// that was found is kept for some minutes, so that it can be opened. ok is false
// where nothing is. Codes: invalid.
func (s *Service) Find(ctx context.Context, c Caller, key string, restore []string, version string) (e Entry, ok bool, err error) {
	in, err := ranges(c, key, restore, version)
	if err != nil || len(in) == 0 {
		return Entry{}, false, err
	}
	for range findTries {
		e, ok, err = s.store.FindCache(ctx, c.OrgID, c.Repo, version, in)
		if err != nil {
			return Entry{}, false, fmt.Errorf("look for an entry: %w", err)
		}
		if !ok {
			return Entry{}, false, nil
		}
		// It may have made room meanwhile; then there may be another.
		if ok, err = s.pin(ctx, e.ID); err != nil || ok {
			return e, ok, err
		}
	}
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
			// No key has a NUL, which is the least that could follow; nor a byte
			// 0xff, so that raising the last one gives the end of what begins so.
			in = append(in, Range{scope, k, k + "\x00"}, Range{scope, k, k[:len(k)-1] + string([]byte{k[len(k)-1] + 1})})
		}
	}
	return in, nil
}

// pin keeps an entry from making room. ok is false when it has done so.
func (s *Service) pin(ctx context.Context, id int64) (ok bool, err error) {
	now := s.clock.Now()
	if s.pins.fresh(id, now) {
		return true, nil
	}
	if ok, err = s.store.PinCache(ctx, id, pinFor); err != nil {
		return false, fmt.Errorf("keep an entry: %w", err)
	}
	if ok {
		s.pins.note(id, now)
	}
	return ok, nil
}

// Entry is one that can be found. Codes: not_found.
func (s *Service) Entry(ctx context.Context, entryID int64) (Entry, error) {
	e, err := s.store.CacheEntry(ctx, entryID)
	if err != nil {
		return Entry{}, fmt.Errorf("read an entry: %w", err)
	}
	return e, nil
}
