package registry

import (
	"context"
	"fmt"
	"slices"

	"github.com/nimbus-ci/nimbus"
)

// What mirrors fetched can be fetched again: so single layers go where room is
// needed, the least recently used first, whatever names them.

// makeRoom has the account of mirrors have room for n bytes more. Codes: too_large
// where there can't be so much.
func (s *Service) makeRoom(ctx context.Context, account string, n int64) error {
	u, err := s.store.RegistryUsage(ctx, account)
	if err != nil {
		return fmt.Errorf("look what mirrors use: %w", err)
	}
	u = s.usual(u)
	if u.OrgID = account; u.Bytes+n <= u.Quota {
		return nil
	}
	if n > u.Quota {
		return &RefusalError{Denied, nimbus.Errorf(nimbus.CodeTooLarge, "the mirrors of the org may have %d bytes, and this has %d", u.Quota, n).
			WithHint("the server's operator sets that: --registry-mirror-quota")}
	}
	_, err = s.evictMirrored(ctx, u, min(int64(evictTo*float64(u.Quota)), u.Quota-n))
	return err
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
			evicted, err := s.evictMirrored(ctx, u, int64(evictTo*float64(u.Quota)))
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
// than some bytes.
func (s *Service) evictMirrored(ctx context.Context, u nimbus.ImageUsage, target int64) (n int, err error) {
	for u.Bytes > target && ctx.Err() == nil {
		blobs, manifests, err := s.store.OldestRegistryMirrored(ctx, u.OrgID, collectAtOnce)
		if err != nil {
			return n, fmt.Errorf("look what a mirror could do without: %w", err)
		}
		// Manifests are small, and tell what an image needs: they go last.
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
		s.forgetUsage(u.OrgID)
	}
	return n, nil
}

// forgetUsage has what an account uses be looked up anew.
func (s *Service) forgetUsage(account string) {
	s.room.mu.Lock()
	defer s.room.mu.Unlock()
	if h, ok := s.room.orgs[account]; ok {
		h.asked = h.asked.Add(-usageFor)
	}
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
