// Package demand finds what GitHub's webhooks did not tell. Several signals say
// which jobs want a runner, and all end in the same books, where a job's status
// only moves forward: in any order, any number of times, hours late.
//
//	webhooks      as they come (internal/forge, internal/scheduler)
//	redelivery    what GitHub sent and we did not process is asked for again
//	polling       what GitHub never sent is found in its lists of runs
//	scale sets    whose queues are listened to where no webhook gets through
//
// Leftovers is the way back: runners that GitHub lists and nobody needs. Releases
// learns how old the runners in our images are to GitHub.
//
// All loops here work on one replica at a time, spend only what more urgent
// calls leave of GitHub's limits, and may be stopped anywhere: what they know is
// in the database, or is learnt anew. Two that work at once do no harm.
package demand

import (
	"context"
	"log/slog"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// every does something at once and then at an interval, or later where GitHub
// asks for it.
func every(ctx context.Context, log *slog.Logger, what string, interval time.Duration, do func(context.Context) error) {
	for {
		wait := interval
		if err := do(ctx); err != nil && ctx.Err() == nil {
			wait = max(wait, nimbus.ErrorRetryAfter(err))
			log.WarnContext(ctx, what+" failed, it is tried again", "in", wait, "error", err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}
