package telemetry

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nimbus-ci/nimbus"
)

// Hosts are asked when metrics are read: those that joined first, up to most of
// them, with what they told last.
type Hosts func(ctx context.Context, most int) ([]nimbus.Host, error)

// hostsTold is how many hosts have metrics of their own of their copies of the
// cache: those that joined first, so that who is told stays the same. What the
// others have is in no sum, which would go down when one of them starts anew.
const hostsTold = 200

// ReadCopies has the metrics tell of what hosts keep of the cache, by host.
func (m *Metrics) ReadCopies(hosts Hosts, log *slog.Logger) {
	type copies = nimbus.CacheCopies
	m.registry.MustRegister(newAsked("nimbus_cache_host_", ", by host, as it told some seconds ago; the same on all replicas.", "host", log, []figure[copies]{
		{"bytes", "What copies of the cache on a host take of its disk", prometheus.GaugeValue, func(c copies) int64 { return c.Bytes }},
		{"limit_bytes", "What they may take", prometheus.GaugeValue, func(c copies) int64 { return c.Limit }},
		{"entries", "Copies on a host", prometheus.GaugeValue, func(c copies) int64 { return c.Entries }},
		{"hits_total", "Contents of the cache that were sent from a host's disk", prometheus.CounterValue, func(c copies) int64 { return c.Hits }},
		{"misses_total", "Contents of the cache that a host had not", prometheus.CounterValue, func(c copies) int64 { return c.Misses }},
		{"sent_bytes_total", "Bytes that were sent from a host's disk", prometheus.CounterValue, func(c copies) int64 { return c.SentBytes }},
		{"origin_bytes_total", "Bytes of contents that a host got of the control plane", prometheus.CounterValue, func(c copies) int64 { return c.OriginBytes }},
		{"saved_total", "Contents that were kept as jobs saved them", prometheus.CounterValue, func(c copies) int64 { return c.Saved }},
		{"evicted_total", "Copies that made room", prometheus.CounterValue, func(c copies) int64 { return c.Evicted }},
		{"evicted_bytes_total", "What they had", prometheus.CounterValue, func(c copies) int64 { return c.EvictedBytes }},
		{"refused_total", "Contents, or parts of them, that were not kept for want of room", prometheus.CounterValue, func(c copies) int64 { return c.Refused }},
		{"corrupt_total", "Copies that were dropped because their bytes had changed", prometheus.CounterValue, func(c copies) int64 { return c.Corrupt }},
	}, func(ctx context.Context) ([]labelled[copies], error) {
		all, err := hosts(ctx, hostsTold)
		return copiesOf(all), err
	}))
}

// copiesOf are those of hosts that keep some. Of two with one name the one that
// joined later is told with its id.
func copiesOf(hosts []nimbus.Host) (rows []labelled[nimbus.CacheCopies]) {
	seen := map[string]bool{}
	for _, h := range hosts[:min(len(hosts), hostsTold)] {
		label := h.Name
		if seen[label] {
			label += "/" + h.ID
		}
		seen[label] = true
		if h.Free.Copies.Limit > 0 {
			rows = append(rows, labelled[nimbus.CacheCopies]{label, h.Free.Copies})
		}
	}
	return rows
}
