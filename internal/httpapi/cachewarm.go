package httpapi

import (
	"context"
	"slices"
	"time"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

func (s cacheService) WarmCache(ctx context.Context, r *connect.Request[nimbusv1.WarmCacheRequest]) (*connect.Response[nimbusv1.WarmCacheResponse], error) {
	caches, err := s.caches()
	if err != nil {
		return nil, err
	}
	all, err := s.api.Hosts.Hosts(ctx)
	if err != nil {
		return nil, err
	}
	hosts, err := toWarm(all, r.Msg.GetHosts())
	if err != nil {
		return nil, err
	}
	c := callerOf(ctx)
	w := nimbus.CacheWarming{Filter: wire.ToCacheFilter(r.Msg.GetFilter()), Hosts: hosts, Entries: int(r.Msg.GetLimit()), MaxBytes: r.Msg.GetMaxBytes()}
	entries, bytes, err := caches.Warm(ctx, c.Principal, c.org, w)
	if err != nil {
		return nil, err
	}
	warmth, err := caches.Warmth(ctx, c.org)
	if err != nil {
		return nil, err
	}
	warmth = slices.DeleteFunc(named(warmth, all), func(w nimbus.CacheWarmth) bool { return !slices.Contains(hosts, w.HostID) })
	return reply(&nimbusv1.WarmCacheResponse{Entries: int64(entries), Bytes: bytes, Hosts: messages(warmth, wire.CacheWarmth)}, nil)
}

func (s cacheService) GetCacheWarmth(ctx context.Context, _ *connect.Request[nimbusv1.GetCacheWarmthRequest]) (*connect.Response[nimbusv1.GetCacheWarmthResponse], error) {
	caches, err := s.caches()
	if err != nil {
		return nil, err
	}
	warmth, err := caches.Warmth(ctx, callerOf(ctx).org)
	if err != nil || len(warmth) == 0 {
		return reply(&nimbusv1.GetCacheWarmthResponse{}, err)
	}
	all, err := s.api.Hosts.Hosts(ctx)
	return reply(&nimbusv1.GetCacheWarmthResponse{Hosts: messages(named(warmth, all), wire.CacheWarmth)}, err)
}

// toWarm are the ids of hosts that are asked for entries: those that are named, or
// all that may get jobs now. A host runs jobs of any org. Codes: not_found,
// conflict.
func toWarm(all []nimbus.Host, names []string) (ids []string, err error) {
	for _, name := range names {
		i := slices.IndexFunc(all, func(h nimbus.Host) bool { return h.ID == name || h.Name == name })
		if i < 0 {
			return nil, nimbus.Errorf(nimbus.CodeNotFound, "there is no host %.80q", name)
		}
		if !slices.Contains(ids, all[i].ID) {
			ids = append(ids, all[i].ID)
		}
	}
	if len(names) > 0 {
		return ids, nil
	}
	for i := range all {
		if all[i].State == nimbus.HostReady && !all[i].Cordoned {
			ids = append(ids, all[i].ID)
		}
	}
	if len(ids) == 0 {
		return nil, nimbus.Errorf(nimbus.CodeConflict, "no host may get jobs now").WithHint("name one with --host, which is asked when it is back")
	}
	return ids, nil
}

// named has hosts' names in what was asked of them, and whether they are there.
func named(warmth []nimbus.CacheWarmth, all []nimbus.Host) []nimbus.CacheWarmth {
	known := make(map[string]*nimbus.Host, len(all))
	for i := range all {
		known[all[i].ID] = &all[i]
	}
	for i := range warmth {
		w := &warmth[i]
		w.Host, w.Away = w.HostID, true // a host that was removed
		if h := known[w.HostID]; h != nil {
			w.Host, w.Away = h.Name, h.State != nimbus.HostReady
		}
	}
	return warmth
}

// wishesTimeout bounds what a heartbeat waits for what is none of its business.
const wishesTimeout = time.Second

// wishes takes in what a host tells of entries that it was asked for, and returns
// those that it is asked for. Leases are renewed whatever becomes of that.
func (s agentService) wishes(ctx context.Context, told []*nimbusv1.CacheWarmed) []*nimbusv1.CacheWish {
	if s.api.Cache == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, wishesTimeout)
	defer cancel()
	warmed := make([]nimbus.CacheWarmed, 0, len(told))
	for _, m := range told {
		warmed = append(warmed, wire.ToCacheWarmed(m))
	}
	wishes, err := s.api.Cache.Wishes(ctx, callerOf(ctx).Subject, warmed)
	if err != nil {
		s.api.Log.WarnContext(ctx, "a host could not be told what it is asked for of the cache", "host", callerOf(ctx).Subject, "error", err)
	}
	return messages(wishes, wire.CacheWish)
}
