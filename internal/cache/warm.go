package cache

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Warming is what a store keeps of entries that hosts are asked to have.
type Warming interface {
	// AskCacheWarm asks hosts for entries of an org, for a time, in the place of all
	// that the org asked of them before. The event is written in the same transaction.
	AskCacheWarm(ctx context.Context, orgID string, hosts []string, entries []Entry, lasts time.Duration, e nimbus.AuditEvent) error
	// HostsAskedCacheWarm are hosts that have not told yet what became of an entry.
	HostsAskedCacheWarm(ctx context.Context, most int) ([]string, error)
	// CacheWishes are the entries of which a host has not told yet, without those
	// that are gone: what was asked first, the newest before.
	CacheWishes(ctx context.Context, hostID string, most int) ([]nimbus.CacheWish, error)
	// SetCacheWarmed is told by a host. What it was not asked for is passed over.
	SetCacheWarmed(ctx context.Context, hostID string, warmed []nimbus.CacheWarmed) error
	// CacheWarmth is what an org has asked of hosts, by what became of it.
	CacheWarmth(ctx context.Context, orgID string) ([]nimbus.CacheWarmth, error)
	// ForgetCacheWishes forgets those whose time is over.
	ForgetCacheWishes(ctx context.Context) error
}

// Bounds of what is asked of hosts.
const (
	warmLasts   = time.Hour
	usualWarm   = 50
	mostWarm    = 200 // entries, of a host
	usualBytes  = 10 << 30
	mostAsked   = 5000 // entries of all hosts, at once
	mostWishes  = 64   // told to a host at once, and by it
	mostWarmed  = 10_000
	wishesEvery = 2 * time.Second
)

// asked are the hosts of which something is asked, as this replica has read it
// last: most of the time they are none, and a heartbeat costs nothing.
type asked struct {
	mu    sync.Mutex
	at    time.Time
	hosts map[string]bool
}

// Warm asks hosts, by their ids, for the newest entries of an org that a filter
// lets through: up to a number of them, and of bytes on each host. Those of pull
// requests are left out unless the filter names their scope. Codes: invalid,
// not_found where there is none.
func (s *Service) Warm(ctx context.Context, p nimbus.Principal, orgID, repo string, f Filter, w nimbus.CacheWarming) (entries int, bytes int64, err error) {
	most, room := w.Entries, w.MaxBytes
	if most == 0 {
		most = usualWarm
	}
	if room == 0 {
		room = usualBytes
	}
	switch {
	case most < 0 || most > mostWarm:
		return 0, 0, nimbus.Errorf(nimbus.CodeInvalid, "%d entries can't be asked for at once", most).WithHint("1 to %d can", mostWarm)
	case room < 0:
		return 0, 0, nimbus.Errorf(nimbus.CodeInvalid, "%d are no bytes", room)
	}
	found, bytes, err := s.newest(ctx, orgID, repo, f, most, room)
	switch {
	case err != nil:
		return 0, 0, err
	case len(found) == 0:
		return 0, 0, nimbus.Errorf(nimbus.CodeNotFound, "no entry is asked for").WithHint("nimbus cache ls shows what there is; entries of pull requests need their --scope, and one larger than the bound of bytes none can have")
	case len(found)*len(w.Hosts) > mostAsked:
		return 0, 0, nimbus.Errorf(nimbus.CodeInvalid, "%d entries on each of %d hosts are too many", len(found), len(w.Hosts)).
			WithHint("%d in all can be asked for at once: ask for fewer, or name hosts", mostAsked)
	}
	e := nimbus.AuditEvent{OrgID: orgID, Actor: p.Actor(), Action: "cache.warm", Target: targetOf(orgID, repo), Outcome: nimbus.AuditAllowed,
		Detail: map[string]string{"key": f.Key, "prefix": f.Prefix, "scope": f.Scope, "entries": strconv.Itoa(len(found)),
			"bytes": strconv.FormatInt(bytes, 10), "hosts": strconv.Itoa(len(w.Hosts))}}
	if err := s.store.AskCacheWarm(ctx, orgID, w.Hosts, found, warmLasts, e); err != nil {
		return 0, 0, fmt.Errorf("ask hosts for entries: %w", err)
	}
	return len(found), bytes, nil
}

// newest are the newest entries that fit into room.
func (s *Service) newest(ctx context.Context, orgID, repo string, f Filter, most int, room int64) (found []Entry, bytes int64, err error) {
	page := nimbus.PageRequest{Size: mostWarm}
	for range warmPages {
		entries, next, err := s.List(ctx, orgID, repo, f, page)
		if err != nil {
			return nil, 0, err
		}
		for i := range entries {
			e := &entries[i]
			if e.Size == 0 || f.Scope == "" && f.ID == 0 && !ofBranch(e.Scope) {
				continue
			}
			if len(found) == most || bytes+e.Size > room {
				return found, bytes, nil
			}
			found, bytes = append(found, *e), bytes+e.Size
		}
		if next == "" {
			break
		}
		page.Token = next
	}
	return found, bytes, nil
}

// warmPages is how far back is looked for entries of branches.
const warmPages = 10

// ofBranch tells whether a scope is what jobs of branches, and the org's own, save
// to: a pull request's, or a run's, is of use to few.
func ofBranch(scope string) bool { return scope == OwnScope || strings.HasPrefix(scope, "refs/heads/") }

// OwnScope is the scope of an org's own jobs, which have no branches.
const OwnScope = "jobs"

// Wishes takes in what a host tells of entries that it was asked for, and returns
// those of which it has not told. It is asked at each heartbeat of each host.
func (s *Service) Wishes(ctx context.Context, hostID string, warmed []nimbus.CacheWarmed) ([]nimbus.CacheWish, error) {
	warmed = slices.DeleteFunc(slices.Clone(warmed[:min(len(warmed), mostWishes)]), func(w nimbus.CacheWarmed) bool { return !told(w.State) })
	if len(warmed) > 0 {
		if err := s.store.SetCacheWarmed(ctx, hostID, warmed); err != nil {
			return nil, fmt.Errorf("write what a host has: %w", err)
		}
	}
	if some, err := s.wishesFor(ctx, hostID); err != nil || !some {
		return nil, err
	}
	wishes, err := s.store.CacheWishes(ctx, hostID, mostWishes)
	if err != nil {
		return nil, fmt.Errorf("read what a host is asked for: %w", err)
	}
	return wishes, nil
}

// told tells whether a state is one that a host tells.
func told(state nimbus.CacheWarmState) bool {
	switch state {
	case nimbus.CacheHere, nimbus.CacheTooLarge, nimbus.CacheNoRoom, nimbus.CacheOff, nimbus.CacheFailed:
		return true
	case nimbus.CacheAsked, nimbus.CacheGone:
	}
	return false
}

// wishesFor tells whether something is asked of a host, as it was some seconds ago.
func (s *Service) wishesFor(ctx context.Context, hostID string) (bool, error) {
	s.asked.mu.Lock()
	defer s.asked.mu.Unlock()
	if now := s.clock.Now(); s.asked.hosts == nil || now.Sub(s.asked.at) >= wishesEvery {
		hosts, err := s.store.HostsAskedCacheWarm(ctx, mostWarmed)
		if err != nil {
			return false, fmt.Errorf("read which hosts are asked for entries: %w", err)
		}
		s.asked.at, s.asked.hosts = now, make(map[string]bool, len(hosts))
		for _, id := range hosts {
			s.asked.hosts[id] = true
		}
	}
	return s.asked.hosts[hostID], nil
}

// Warmth is what an org has asked of hosts in the last hour.
func (s *Service) Warmth(ctx context.Context, orgID string) ([]nimbus.CacheWarmth, error) {
	hosts, err := s.store.CacheWarmth(ctx, orgID)
	if err != nil {
		return nil, fmt.Errorf("read what hosts have: %w", err)
	}
	return hosts, nil
}
