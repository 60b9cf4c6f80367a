package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus/bench/report"
)

// parts tell where the time goes: the parts of all starts of each kind.
type parts struct {
	mu    sync.Mutex
	kinds []string // in the order in which they first came
	names map[string][]string
	took  map[string]map[string][]float64 // milliseconds
}

func newParts() *parts {
	return &parts{names: map[string][]string{}, took: map[string]map[string][]float64{}}
}

func (p *parts) add(kind, name string, took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.took[kind] == nil {
		p.kinds, p.took[kind] = append(p.kinds, kind), map[string][]float64{}
	}
	if p.took[kind][name] == nil {
		p.names[kind] = append(p.names[kind], name)
	}
	p.took[kind][name] = append(p.took[kind][name], float64(took.Microseconds())/1000)
}

// print writes the medians.
func (p *parts) print(w io.Writer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, kind := range p.kinds {
		fmt.Fprintf(w, "%-24s", kind)
		for _, name := range p.names[kind] {
			fmt.Fprintf(w, "  %s %.1f", name, report.Median(p.took[kind][name]))
		}
		fmt.Fprintln(w)
	}
}

// laps are the parts of one start. It counts from begin or from restart.
type laps struct {
	parts       *parts
	kind        string
	began, last time.Time
}

func (p *parts) begin(kind string) *laps {
	l := &laps{parts: p, kind: kind}
	l.restart()
	return l
}

func (l *laps) restart() { l.began = time.Now(); l.last = l.began }

func (l *laps) lap(name string) {
	now := time.Now()
	l.parts.add(l.kind, name, now.Sub(l.last))
	l.last = now
}

// took is all of it, to the end of the last part.
func (l *laps) took() time.Duration { return l.last.Sub(l.began) }

// The executor tells of its own parts in its log: parts is a slog.Handler that
// hears of nothing else.

// Enabled implements slog.Handler.
func (*parts) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements slog.Handler.
func (p *parts) Handle(_ context.Context, r slog.Record) error {
	var origin string
	var group []slog.Attr
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "origin":
			origin = a.Value.String()
		case "parts":
			group = a.Value.Group()
		}
		return true
	})
	for _, a := range slices.Clip(group) {
		p.add(origin, a.Key, a.Value.Duration())
	}
	return nil
}

// WithAttrs implements slog.Handler.
func (p *parts) WithAttrs([]slog.Attr) slog.Handler { return p }

// WithGroup implements slog.Handler.
func (p *parts) WithGroup(string) slog.Handler { return p }
