package telemetry_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/telemetry"
)

// TestCopiesOfHostsAreTold as each host told them last, also where two have one
// name; a host that keeps none is not told of.
func TestCopiesOfHostsAreTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	twin, err := w.RegisterHost(t.Context(), w.host.Name, "v1", w.host.Inventory)
	w.must(err)
	other, err := w.RegisterHost(t.Context(), "keeps-none", "v1", w.host.Inventory)
	w.must(err)
	// Of two that joined within a millisecond, either may come first.
	ids := []string{w.host.ID, twin.ID}
	slices.Sort(ids)
	for i, id := range ids {
		n := int64(i + 1)
		_, err := w.Poll(t.Context(), id, nimbus.Capacity{Copies: nimbus.CacheCopies{Hits: 3 * n, Misses: n, SentBytes: 100 * n, OriginBytes: 10 * n, Evicted: n, Refused: 2 * n, Bytes: 1000 * n, Limit: 4000}}, 0)
		w.must(err)
	}
	_, err = w.Poll(t.Context(), other.ID, nimbus.Capacity{CPUs: 1}, 0)
	w.must(err)
	w.metrics.ReadCopies(func(ctx context.Context, most int) ([]nimbus.Host, error) {
		hosts, _, err := w.HostPage(ctx, most, "")
		return hosts, err
	}, w.log)
	second := twin.Name + "/" + ids[1]
	for _, c := range []struct {
		want        float64
		name, label string
	}{
		{3, "nimbus_cache_host_hits_total", w.host.Name}, {6, "nimbus_cache_host_hits_total", second},
		{2, "nimbus_cache_host_misses_total", second}, {100, "nimbus_cache_host_sent_bytes_total", w.host.Name},
		{20, "nimbus_cache_host_origin_bytes_total", second}, {1, "nimbus_cache_host_evicted_total", w.host.Name},
		{4, "nimbus_cache_host_refused_total", second}, {1000, "nimbus_cache_host_bytes", w.host.Name},
		{8000, "nimbus_cache_host_limit_bytes", ""}, // of both, and of no other
	} {
		var values []string
		if c.label != "" {
			values = []string{c.label}
		}
		if got := w.sample(c.name, values...); got != c.want {
			t.Errorf("%s of %q is %v, want %v", c.name, c.label, got, c.want)
		}
	}
}

// TestCopiesOfFewHosts: so many hosts have metrics of their own, whoever else there
// is.
func TestCopiesOfFewHosts(t *testing.T) {
	t.Parallel()
	hosts := make([]nimbus.Host, 1000)
	for i := range hosts {
		hosts[i] = nimbus.Host{ID: fmt.Sprint("host_", i), Name: fmt.Sprint("rack-", i), Free: nimbus.Capacity{Copies: nimbus.CacheCopies{Limit: 1}}}
	}
	m := telemetry.NewMetrics("test")
	m.ReadCopies(func(context.Context, int) ([]nimbus.Host, error) { return hosts, nil }, slog.New(slog.DiscardHandler))
	families, err := m.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if n := len(f.GetMetric()); f.GetName() == "nimbus_cache_host_limit_bytes" && n != 200 {
			t.Errorf("%d hosts have metrics of their own", n)
		}
	}
}
