package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nimbus-ci/nimbus"
)

// sent counts what jobs tell by OTLP.
type sent struct {
	batches, items, bytes *prometheus.CounterVec
	refused               prometheus.Counter
	forwarded             *prometheus.CounterVec
}

func (m *Metrics) registerSent() {
	m.sent = sent{
		batches: m.counters("nimbus_telemetry_batches_total", "Batches of what jobs told by OTLP that were stored, by signal.", "signal"),
		items:   m.counters("nimbus_telemetry_items_total", "Spans, log records and points that were in them.", "signal"),
		bytes:   m.counters("nimbus_telemetry_bytes_total", "Bytes that they had, packed.", "signal"),
		refused: m.counter("nimbus_telemetry_refused_total", "Batches for which the quota of an attempt or an org had no room."),
		forwarded: m.counters("nimbus_telemetry_forwarded_total",
			"Batches that were to be sent on to the OTLP endpoint, by what became of them: sent, failed, dropped where too many waited.", "outcome"),
	}
	for _, s := range []nimbus.Signal{nimbus.SignalTraces, nimbus.SignalLogs, nimbus.SignalMetrics} {
		m.sent.batches.WithLabelValues(string(s))
	}
	for _, outcome := range []string{forwardSent, forwardFailed, forwardDropped} {
		m.sent.forwarded.WithLabelValues(outcome)
	}
}

// TelemetryStored implements traces.Observer.
func (m *Metrics) TelemetryStored(s nimbus.Signal, items, bytes int) {
	m.sent.batches.WithLabelValues(string(s)).Inc()
	m.sent.items.WithLabelValues(string(s)).Add(float64(items))
	m.sent.bytes.WithLabelValues(string(s)).Add(float64(bytes))
}

// TelemetryRefused implements traces.Observer.
func (m *Metrics) TelemetryRefused(batches int) { m.sent.refused.Add(float64(batches)) }
