package telemetry

import (
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// scrapesAtOnce bounds how many read the metrics at one time; the next gets 503.
const scrapesAtOnce = 4

// Handler answers with all metrics.
func (m *Metrics) Handler(log *slog.Logger) http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: scrapesAtOnce, EnableOpenMetrics: true,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	})
}

// Gatherer is where all metrics are read from.
func (m *Metrics) Gatherer() prometheus.Gatherer { return m.registry }
