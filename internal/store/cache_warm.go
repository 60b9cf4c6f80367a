package store

import (
	"context"
	"fmt"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// AskCacheWarm implements cache.Warming.
func (s *Store) AskCacheWarm(ctx context.Context, orgID string, hosts []string, entries []cache.Entry, lasts time.Duration, e nimbus.AuditEvent) error {
	return s.write(ctx, func(t *tx) error {
		for _, host := range hosts {
			if err := t.ForgetCacheWishesOf(ctx, gen.ForgetCacheWishesOfParams{OrgID: orgID, HostID: host}); err != nil {
				return fmt.Errorf("forget what a host was asked before: %w", err)
			}
			for i := range entries {
				err := t.AddCacheWish(ctx, gen.AddCacheWishParams{HostID: host, EntryID: entries[i].ID, OrgID: orgID, Bytes: entries[i].Size,
					AskedAt: micros(t.now), ExpiresAt: micros(t.now.Add(lasts))})
				if err != nil {
					return fmt.Errorf("ask a host for an entry: %w", err)
				}
			}
		}
		return t.audit(ctx, e)
	})
}

// HostsAskedCacheWarm implements cache.Warming.
func (s *Store) HostsAskedCacheWarm(ctx context.Context, most int) (hosts []string, err error) {
	err = s.read(ctx, func(t *tx) (err error) {
		hosts, err = t.HostsWithCacheWishes(ctx, gen.HostsWithCacheWishesParams{ExpiresAt: micros(t.now), Limit: int32(most)})
		return err
	})
	return hosts, err
}

// CacheWishes implements cache.Warming.
func (s *Store) CacheWishes(ctx context.Context, hostID string, most int) (wishes []nimbus.CacheWish, err error) {
	err = s.read(ctx, func(t *tx) error {
		rows, err := t.CacheWishes(ctx, gen.CacheWishesParams{HostID: hostID, ExpiresAt: micros(t.now), Limit: int32(most)})
		wishes = make([]nimbus.CacheWish, len(rows))
		for i, r := range rows {
			wishes[i] = nimbus.CacheWish{OrgID: r.OrgID, EntryID: r.EntryID, Bytes: r.Bytes}
		}
		return err
	})
	return wishes, err
}

// SetCacheWarmed implements cache.Warming.
func (s *Store) SetCacheWarmed(ctx context.Context, hostID string, warmed []nimbus.CacheWarmed) error {
	return s.write(ctx, func(t *tx) error {
		for _, w := range warmed {
			err := t.SetCacheWarmed(ctx, gen.SetCacheWarmedParams{State: string(w.State), HostID: hostID, EntryID: w.EntryID, OrgID: w.OrgID})
			if err != nil {
				return fmt.Errorf("write what became of an entry on a host: %w", err)
			}
		}
		return nil
	})
}

// CacheWarmth implements cache.Warming.
func (s *Store) CacheWarmth(ctx context.Context, orgID string) (hosts []nimbus.CacheWarmth, err error) {
	err = s.read(ctx, func(t *tx) error {
		hosts = nil
		rows, err := t.CacheWarmth(ctx, gen.CacheWarmthParams{OrgID: orgID, ExpiresAt: micros(t.now)})
		for _, r := range rows {
			if len(hosts) == 0 || hosts[len(hosts)-1].HostID != r.HostID {
				hosts = append(hosts, nimbus.CacheWarmth{HostID: r.HostID})
			}
			h, state := &hosts[len(hosts)-1], nimbus.CacheWarmState(r.State)
			if state != nimbus.CacheAsked {
				h.Counts = append(h.Counts, nimbus.CacheWarmCount{State: state, Entries: r.Entries, Bytes: r.Bytes})
				continue
			}
			for _, c := range []nimbus.CacheWarmCount{
				{State: nimbus.CacheAsked, Entries: r.There, Bytes: r.BytesThere}, {State: nimbus.CacheGone, Entries: r.Entries - r.There, Bytes: r.Bytes - r.BytesThere},
			} {
				if c.Entries > 0 {
					h.Counts = append(h.Counts, c)
				}
			}
		}
		return err
	})
	return hosts, err
}

// ForgetCacheWishes implements cache.Warming.
func (s *Store) ForgetCacheWishes(ctx context.Context) error {
	return s.write(ctx, func(t *tx) error { return t.ForgetCacheWishes(ctx, micros(t.now)) })
}
