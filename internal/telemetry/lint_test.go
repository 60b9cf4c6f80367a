package telemetry_test

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/nimbus-ci/nimbus/internal/telemetry"
)

// TestMetricsAreWellFormed: names, units and types are as Prometheus wants them, by
// what promtool looks with.
func TestMetricsAreWellFormed(t *testing.T) {
	t.Parallel()
	m := telemetry.NewMetrics("test")
	m.TelemetryRefused(1)
	families, err := m.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}
