package microvm

import (
	"context"
	"log/slog"
	"time"
)

// laps are how long the parts of a start took, one after another. They are in
// the log for debugging: where the time goes is another place on each host.
type laps struct {
	began, last time.Time
	parts       []any // of slog
}

func newLaps() *laps {
	now := time.Now()
	return &laps{began: now, last: now}
}

// lap ends a part. A nil receiver takes no time.
func (l *laps) lap(part string) {
	if l == nil {
		return
	}
	now := time.Now()
	l.parts = append(l.parts, slog.Duration(part, now.Sub(l.last)))
	l.last = now
}

func (l *laps) log(ctx context.Context, log *slog.Logger, s *sandbox) {
	log.DebugContext(ctx, "made a machine", "sandbox", s.id, "origin", s.origin, "took", l.last.Sub(l.began), slog.Group("parts", l.parts...))
}
