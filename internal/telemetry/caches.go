package telemetry

import (
	"context"
	"log/slog"
	"sync"
	"time"

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

// cachesCollector tells what caches are used for.
type cachesCollector struct {
	caches  Caches
	log     *slog.Logger
	metrics []cacheMetric

	mu     sync.Mutex
	readAt time.Time
	last   []CacheUse
}

// cacheMetric is one of each org's.
type cacheMetric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	of   func(CacheUse) int64
}

// ReadCaches has the metrics tell of caches, by org.
func (m *Metrics) ReadCaches(caches Caches, log *slog.Logger) {
	c := &cachesCollector{caches: caches, log: log}
	for _, of := range []struct {
		name, help string
		kind       prometheus.ValueType
		of         func(CacheUse) int64
	}{
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
	} {
		c.metrics = append(c.metrics, cacheMetric{
			prometheus.NewDesc("nimbus_cache_"+of.name, of.help+", by org; the same on all replicas.", []string{"org"}, nil), of.kind, of.of})
	}
	m.registry.MustRegister(c)
}

// Describe implements prometheus.Collector.
func (c *cachesCollector) Describe(out chan<- *prometheus.Desc) {
	for _, m := range c.metrics {
		out <- m.desc
	}
}

// Collect implements prometheus.Collector. Where the books don't answer, what they
// last told is told again.
func (c *cachesCollector) Collect(out chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); c.readAt.IsZero() || now.Sub(c.readAt) >= booksFresh {
		ctx, cancel := context.WithTimeout(context.Background(), booksTimeout)
		defer cancel()
		read, err := c.caches(ctx, orgsTold)
		if err != nil {
			c.log.WarnContext(ctx, "what caches are used for can't be read for metrics", "error", err)
		} else {
			c.last = read
		}
		c.readAt = now
	}
	for _, u := range c.last {
		for _, m := range c.metrics {
			out <- prometheus.MustNewConstMetric(m.desc, m.kind, float64(m.of(u)), u.Org)
		}
	}
}
