package telemetry

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
)

// CacheUse is what an org uses of the cache, and what it used that for.
type CacheUse struct {
	Org                                   string // its name
	Bytes, Entries                        int64
	Hits, Misses, BytesIn, BytesOut       int64
	Evicted, EvictedBytes, Refused, Quota int64
}

// Caches are asked when metrics are read: the orgs that were made first, up to
// most of them.
type Caches func(ctx context.Context, most int) ([]CacheUse, error)

// orgsTold is how many orgs have metrics of their own of their caches. They are
// made by administrators of the platform, and so are few; who is told never
// changes, as counters must not go down.
const orgsTold = 200

// ReadCaches has the metrics tell of caches, by org.
func (m *Metrics) ReadCaches(caches Caches, log *slog.Logger) {
	m.registry.MustRegister(newAsked("nimbus_cache_", ", by org; the same on all replicas.", "org", log, []figure[CacheUse]{
		{"bytes", "What entries of the cache have, and uploads have reserved", prometheus.GaugeValue, func(u CacheUse) int64 { return u.Bytes }},
		{"entries", "Entries of the cache, and uploads", prometheus.GaugeValue, func(u CacheUse) int64 { return u.Entries }},
		{"quota_bytes", "What they may have", prometheus.GaugeValue, func(u CacheUse) int64 { return u.Quota }},
		{"hits_total", "Look-ups in the cache that found something", prometheus.CounterValue, func(u CacheUse) int64 { return u.Hits }},
		{"misses_total", "Look-ups in the cache that found nothing", prometheus.CounterValue, func(u CacheUse) int64 { return u.Misses }},
		{"written_bytes_total", "Bytes that came into the cache", prometheus.CounterValue, func(u CacheUse) int64 { return u.BytesIn }},
		{"read_bytes_total", "Bytes that were read from the cache", prometheus.CounterValue, func(u CacheUse) int64 { return u.BytesOut }},
		{"evicted_total", "Entries of the cache that made room, or that nobody found for long", prometheus.CounterValue, func(u CacheUse) int64 { return u.Evicted }},
		{"evicted_bytes_total", "What they had", prometheus.CounterValue, func(u CacheUse) int64 { return u.EvictedBytes }},
		{"refused_total", "Blocks and uploads for which a quota had no room", prometheus.CounterValue, func(u CacheUse) int64 { return u.Refused }},
	}, func(ctx context.Context) ([]labelled[CacheUse], error) {
		uses, err := caches(ctx, orgsTold)
		rows := make([]labelled[CacheUse], len(uses))
		for i, u := range uses {
			rows[i] = labelled[CacheUse]{u.Org, u}
		}
		return rows, err
	}))
}
