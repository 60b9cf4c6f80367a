package telemetry

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// asked tells figures of a few things, each under a name of its own, that are
// asked for when metrics are read.
type asked[T any] struct {
	ask     func(context.Context) ([]labelled[T], error)
	what    string // for the log
	log     *slog.Logger
	figures []figure[T]
	descs   []*prometheus.Desc

	mu     sync.Mutex
	readAt time.Time
	last   []labelled[T]
}

// labelled is one of the things. No two have the same label.
type labelled[T any] struct {
	label string
	of    T
}

// figure is one of each thing's.
type figure[T any] struct {
	name, help string
	kind       prometheus.ValueType
	of         func(T) int64
}

// newAsked has figures whose names begin so, and whose help ends so.
func newAsked[T any](begin, end, label string, log *slog.Logger, figures []figure[T], ask func(context.Context) ([]labelled[T], error)) *asked[T] {
	a := &asked[T]{ask: ask, what: label, log: log, figures: figures}
	for _, f := range figures {
		a.descs = append(a.descs, prometheus.NewDesc(begin+f.name, f.help+end, []string{label}, nil))
	}
	return a
}

// Describe implements prometheus.Collector.
func (a *asked[T]) Describe(out chan<- *prometheus.Desc) {
	for _, d := range a.descs {
		out <- d
	}
}

// Collect implements prometheus.Collector. Where there is no answer, what was last
// told is told again.
func (a *asked[T]) Collect(out chan<- prometheus.Metric) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now := time.Now(); a.readAt.IsZero() || now.Sub(a.readAt) >= booksFresh {
		ctx, cancel := context.WithTimeout(context.Background(), booksTimeout)
		defer cancel()
		read, err := a.ask(ctx)
		if err != nil {
			a.log.WarnContext(ctx, "figures of caches can't be read for metrics", "by", a.what, "error", err)
		} else {
			a.last = read
		}
		a.readAt = now
	}
	for _, row := range a.last {
		for i, f := range a.figures {
			out <- prometheus.MustNewConstMetric(a.descs[i], f.kind, float64(f.of(row.of)), row.label)
		}
	}
}
