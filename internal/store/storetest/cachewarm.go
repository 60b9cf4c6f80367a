package storetest

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
)

// testCacheWarm asks two hosts for entries of two orgs.
func testCacheWarm(t *testing.T, b *cacheBooks) {
	ctx := t.Context()
	other := nimbus.Org{ID: nimbus.NewID(nimbus.PrefixOrg, time.Now()), Name: "other"}
	b.must(b.CreateOrg(ctx, other, nimbus.AuditEvent{Action: "org.create", Outcome: nimbus.AuditAllowed}))
	old, fresh := b.save(cachePlace("old"), 10), b.save(cachePlace("fresh"), 20)
	place := cachePlace("old")
	place.OrgID = other.ID
	theirs := b.save(place, 5)
	ask := func(org string, hosts []string, entries ...cache.Entry) {
		t.Helper()
		b.must(b.AskCacheWarm(ctx, org, hosts, entries, time.Hour, nimbus.AuditEvent{OrgID: org, Action: "cache.warm", Outcome: nimbus.AuditAllowed}))
	}
	wish := func(e cache.Entry) nimbus.CacheWish {
		return nimbus.CacheWish{OrgID: e.OrgID, EntryID: e.ID, Bytes: e.Size}
	}
	wishes := func(host string, most int, want ...nimbus.CacheWish) {
		t.Helper()
		got, err := b.CacheWishes(ctx, host, most)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s is asked for %+v, %v; want %+v", host, got, err, want)
		}
	}
	warmth := func(org string, want ...nimbus.CacheWarmth) {
		t.Helper()
		got, err := b.CacheWarmth(ctx, org)
		if d := cmp.Diff(want, got); err != nil || d != "" {
			t.Errorf("what %s asked for (-want +got) %s, %v", org, d, err)
		}
	}
	count := func(state nimbus.CacheWarmState, entries, bytes int64) nimbus.CacheWarmCount {
		return nimbus.CacheWarmCount{State: state, Entries: entries, Bytes: bytes}
	}
	told := func(host, org string, e cache.Entry, state nimbus.CacheWarmState) {
		t.Helper()
		b.must(b.SetCacheWarmed(ctx, host, []nimbus.CacheWarmed{{OrgID: org, EntryID: e.ID, State: state}}))
	}

	ask(nimbus.DefaultOrgID, []string{"hst_a", "hst_b"}, fresh, old)
	ask(other.ID, []string{"hst_a"}, theirs)
	wishes("hst_b", 10, wish(fresh), wish(old))
	wishes("hst_a", 1, wish(fresh))
	wishes("hst_c", 10)
	warmth(other.ID, nimbus.CacheWarmth{HostID: "hst_a", Counts: []nimbus.CacheWarmCount{count(nimbus.CacheAsked, 1, 5)}})
	if hosts, err := b.HostsAskedCacheWarm(ctx, 10); err != nil || !slices.Equal(hosts, []string{"hst_a", "hst_b"}) {
		t.Errorf("asked are %q, %v", hosts, err)
	}

	// What is told of another org's, by another host, or twice, changes nothing.
	told("hst_b", other.ID, fresh, nimbus.CacheHere)
	told("hst_c", nimbus.DefaultOrgID, fresh, nimbus.CacheHere)
	wishes("hst_b", 10, wish(fresh), wish(old))
	told("hst_b", nimbus.DefaultOrgID, fresh, nimbus.CacheHere)
	told("hst_b", nimbus.DefaultOrgID, fresh, nimbus.CacheFailed)
	wishes("hst_b", 10, wish(old))

	// What is removed nobody is asked for any more.
	b.must(b.RemoveCache(ctx, nimbus.DefaultOrgID, old.ID))
	wishes("hst_b", 10)
	warmth(nimbus.DefaultOrgID,
		nimbus.CacheWarmth{HostID: "hst_a", Counts: []nimbus.CacheWarmCount{count(nimbus.CacheAsked, 1, 20), count(nimbus.CacheGone, 1, 10)}},
		nimbus.CacheWarmth{HostID: "hst_b", Counts: []nimbus.CacheWarmCount{count(nimbus.CacheGone, 1, 10), count(nimbus.CacheHere, 1, 20)}})

	// Asked again, it takes the place of what the org asked before, and of nothing else.
	ask(nimbus.DefaultOrgID, []string{"hst_b"}, fresh)
	wishes("hst_b", 10, wish(fresh))
	ask(nimbus.DefaultOrgID, []string{"hst_a"})
	wishes("hst_a", 10, wish(theirs))

	b.must(b.OffsetClock(ctx, time.Hour+time.Second))
	wishes("hst_b", 10)
	warmth(nimbus.DefaultOrgID)
	b.must(b.ForgetCacheWishes(ctx))
	b.must(b.OffsetClock(ctx, -time.Hour-time.Second))
	wishes("hst_b", 10) // it is forgotten, and not only late
	warmth(other.ID)
}
