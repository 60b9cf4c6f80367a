package cache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/nimbus-ci/nimbus/internal/blob"
)

// Bounds of one sweep.
const (
	removedAtOnce = 200
	namesAtOnce   = 500
	// orphanPages is how many pages of contents are looked through in one sweep;
	// the next one goes on there.
	orphanPages = 20
)

// Sweep gives uploads up that are idle or of jobs that have ended, has entries go that were not used for long or are
// over a quota, then the content of all that is no more, and content that nothing
// names. It may be called at any time, by one replica or by many; what fails is
// done by the next.
func (s *Service) Sweep(ctx context.Context) error {
	idle, err := s.store.GiveUpCache(ctx, s.limits.Idle)
	errs := []error{wrap("give idle uploads up", err)}
	unused, err := s.store.ForgetUnusedCache(ctx, s.limits.Unused)
	errs = append(errs, wrap("forget unused entries", err))
	trimmed, err := s.store.TrimCache(ctx, s.limits)
	errs = append(errs, wrap("hold caches to their quotas", err))
	errs = append(errs, wrap("forget what hosts were asked for", s.store.ForgetCacheWishes(ctx)))
	if idle+unused+trimmed > 0 {
		s.log.InfoContext(ctx, "the cache was swept", "idle_uploads", idle, "unused", unused, "over_quota", trimmed)
	}
	return errors.Join(append(errs, s.clear(ctx), wrap("remove what nothing names", s.orphans.sweep(ctx, s)))...)
}

func wrap(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// clear removes the content of what is no more, then its rows: a crash in between
// leaves the rows, and so the next sweep goes on.
func (s *Service) clear(ctx context.Context) error {
	var errs []error
	for after := int64(0); ; {
		gone, err := s.store.RemovedCache(ctx, after, removedAtOnce)
		if err != nil {
			return errors.Join(append(errs, wrap("look for what was removed", err))...)
		}
		for _, r := range gone {
			after = r.ID
			errs = append(errs, s.clearOne(ctx, r))
		}
		if len(gone) < removedAtOnce || ctx.Err() != nil {
			return errors.Join(errs...)
		}
	}
}

func (s *Service) clearOne(ctx context.Context, r Removed) error {
	for {
		names, err := s.store.CacheBlobNames(ctx, r.ID, namesAtOnce)
		if err != nil {
			return fmt.Errorf("look for the content of %d: %w", r.ID, err)
		}
		if len(names) == 0 {
			return wrap("forget an entry", s.store.ForgetCache(ctx, r.ID))
		}
		for _, name := range names {
			if err := s.blobs.Delete(ctx, blobKey(r.OrgID, r.ID, name)); err != nil {
				return fmt.Errorf("remove the content of %d: %w", r.ID, err)
			}
		}
		if err := s.store.ForgetCacheBlobs(ctx, r.ID, names[len(names)-1]); err != nil {
			return fmt.Errorf("forget the content of %d: %w", r.ID, err)
		}
	}
}

// orphans is how far contents were looked through.
type orphans struct {
	mu    sync.Mutex
	after string
}

// sweep looks through some of all contents for those that nothing names: of calls
// that a crash ended.
func (o *orphans) sweep(ctx context.Context, s *Service) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for range orphanPages {
		page, err := s.blobs.List(ctx, root, o.after, blob.MaxList)
		if err != nil {
			return err //nolint:wrapcheck // told by Sweep
		}
		if err := s.dropOrphans(ctx, page); err != nil {
			return err
		}
		if len(page) < blob.MaxList {
			o.after = ""
			return nil
		}
		o.after = page[len(page)-1].Key
	}
	return nil
}

// dropOrphans removes those of a page that are old and have no row.
func (s *Service) dropOrphans(ctx context.Context, page []blob.Listed) error {
	old := s.clock.Now().Add(-s.limits.Orphan)
	page = slices.DeleteFunc(page, func(b blob.Listed) bool { return b.ModifiedAt.After(old) })
	for len(page) > 0 {
		folder, _ := cutName(page[0].Key)
		n := 1
		for n < len(page) && strings.HasPrefix(page[n].Key, folder+"/") {
			n++
		}
		if err := s.dropOrphansOf(ctx, folder, page[:n]); err != nil {
			return err
		}
		page = page[n:]
	}
	return nil
}

func cutName(key string) (folder, name string) {
	i := strings.LastIndexByte(key, '/')
	return key[:i], key[i+1:]
}

func (s *Service) dropOrphansOf(ctx context.Context, folder string, blobs []blob.Listed) error {
	org, number, _ := strings.Cut(strings.TrimPrefix(folder, root), "/")
	id, err := strconv.ParseInt(number, 10, 64)
	if err != nil { // not ours
		return nil //nolint:nilerr // it is left alone
	}
	_, first := cutName(blobs[0].Key)
	_, last := cutName(blobs[len(blobs)-1].Key)
	known, err := s.store.NamedCacheBlobs(ctx, org, id, first, last)
	if err != nil {
		return err //nolint:wrapcheck // told by Sweep
	}
	named := make(map[string]bool, len(known))
	for _, name := range known {
		named[name] = true
	}
	for _, b := range blobs {
		if _, name := cutName(b.Key); !named[name] {
			s.log.InfoContext(ctx, "content that nothing names is removed from the cache", "key", b.Key, "bytes", b.Size)
			if err := s.blobs.Delete(ctx, b.Key); err != nil {
				return err //nolint:wrapcheck // told by Sweep
			}
		}
	}
	return nil
}
