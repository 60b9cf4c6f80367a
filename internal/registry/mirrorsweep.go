package registry

import (
	"context"
	"fmt"
	"slices"

	"github.com/nimbus-ci/nimbus"
)

// What mirrors fetched can be fetched again: so single layers go where room is
// needed, the least recently used first, whatever names them.

// roomTries is how often it is looked anew whether there is room, while others make
// some, too, and fill it.
const roomTries = 4

// reserve has the account of mirrors have room for n bytes that come to this replica,
// beside all that comes already. They are counted until they are unclaimed: once the
// books have them, or they don't come. Codes: too_large where there can't be so much.
func (s *Service) reserve(ctx context.Context, account string, n int64) error {
	for try := 1; ; try++ {
		// First what comes, then the books: what gets into them meanwhile is counted
		// twice for a moment, and not never.
		before := s.coming(account)
		u, err := s.store.RegistryUsage(ctx, account)
		if err != nil {
			return fmt.Errorf("look what mirrors use: %w", err)
		}
		u = s.usual(u)
		u.OrgID = account
		coming, ok := s.reserved(u, before, n)
		if ok {
			return nil
		}
		if coming+n > u.Quota || try == roomTries {
			return fmt.Errorf("%d bytes more: %w", n, QuotaFull(account, u.Bytes+coming, u.Quota))
		}
		// Never manifests: they are small, and tell what an image needs.
		if _, err = s.evictMirrored(ctx, u, min(int64(evictTo*float64(u.Quota)), u.Quota-n-coming), false); err != nil {
			return err
		}
	}
}

// coming is what comes for an account to this replica.
func (s *Service) coming(account string) int64 {
	s.room.mu.Lock()
	defer s.room.mu.Unlock()
	return s.room.of(account).coming
}

// reserved counts n bytes as coming where there is room for them, and tells what else
// comes. before is what did when the books were asked.
func (s *Service) reserved(u nimbus.ImageUsage, before, n int64) (coming int64, ok bool) {
	s.room.mu.Lock()
	defer s.room.mu.Unlock()
	h := s.room.of(u.OrgID)
	coming = max(before, h.coming)
	if u.Bytes+coming+n > u.Quota {
		return coming, false
	}
	h.coming += n
	return coming, true
}

// evictAllMirrored makes room in all accounts of mirrors whose quota is nearly used.
func (s *Service) evictAllMirrored(ctx context.Context) (n int, err error) {
	for after := ""; ctx.Err() == nil; {
		all, err := s.store.RegistryUsageOfOrgs(ctx, after, atOnce)
		if err != nil {
			return n, err //nolint:wrapcheck // told by Collect
		}
		for _, u := range all {
			after = u.OrgID
			if u = s.usual(u); !IsMirrored(u.OrgID) || float64(u.Bytes) <= evictFrom*float64(u.Quota) {
				continue
			}
			evicted, err := s.evictMirrored(ctx, u, int64(evictTo*float64(u.Quota)), true)
			n += evicted
			if err != nil {
				return n, err
			}
		}
		if len(all) < atOnce {
			break
		}
	}
	return n, nil
}

// evictMirrored removes what was not used for longest until an account has no more
// than some bytes: layers, and then, where nothing else is left, manifests too.
func (s *Service) evictMirrored(ctx context.Context, u nimbus.ImageUsage, target int64, manifestsToo bool) (n int, err error) {
	for u.Bytes > target && ctx.Err() == nil {
		blobs, manifests, err := s.store.OldestRegistryMirrored(ctx, u.OrgID, collectAtOnce)
		if err != nil {
			return n, fmt.Errorf("look what a mirror could do without: %w", err)
		}
		if len(blobs) == 0 && !manifestsToo {
			break
		}
		if len(blobs) == 0 {
			removed, err := s.collect(ctx, manifests, true)
			n += removed
			if err != nil || removed == 0 {
				return n, err
			}
			for _, m := range manifests {
				u.Bytes -= m.Size
			}
			continue
		}
		need := u.Bytes - target
		enough := slices.IndexFunc(blobs, func(b Loose) bool {
			need -= b.Size
			return need <= 0
		})
		if enough >= 0 {
			blobs = blobs[:enough+1]
		}
		removed, freed, err := s.store.EvictRegistryBlobs(ctx, blobs)
		n += removed
		u.Bytes -= freed
		if err != nil {
			return n, fmt.Errorf("remove what a mirror can do without: %w", err)
		}
		if removed == 0 {
			break // others are at it
		}
	}
	if n > 0 {
		s.known.forget()
	}
	return n, nil
}

// dropUnusedMirrored removes images of mirrors that nobody pulls: those that a
// person pushed stay, but nobody put these here.
func (s *Service) dropUnusedMirrored(ctx context.Context) (n int, err error) {
	for ctx.Err() == nil {
		unused, err := s.store.UnusedRegistryMirrored(ctx, s.limits.Untagged, atOnce)
		if err != nil {
			return n, err //nolint:wrapcheck // told by Collect
		}
		removed, err := s.collect(ctx, unused, true)
		n += removed
		if err != nil || removed == 0 || len(unused) < atOnce {
			return n, err
		}
	}
	return n, nil
}
