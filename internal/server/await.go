package server

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Pauses between tries to open a database that does not answer: doubled each
// time, up to the most.
const (
	awaitPause = 250 * time.Millisecond
	awaitMost  = 5 * time.Second
)

// awaited opens a database, and waits for one that does not answer: machines
// that start together are up in any order. What can't change by waiting, like a
// wrong password, fails at once.
func awaited(ctx context.Context, log *slog.Logger, patience time.Duration, open func(context.Context) error) error {
	began := time.Now()
	for pause := awaitPause; ; pause = min(2*pause, awaitMost) {
		err := open(ctx)
		left := patience - time.Since(began)
		switch {
		case nimbus.ErrorCode(err) != nimbus.CodeUnavailable || ctx.Err() != nil:
			return err
		case left <= 0:
			return gaveUp(err, patience)
		}
		pause = min(pause, left)
		what, why := ofDriver(err)
		log.WarnContext(ctx, "waiting for the database: "+what, "cause", why, "next_try_in", pause, "gives_up_in", left.Round(time.Second))
		select {
		case <-ctx.Done():
			return &nimbus.Error{Code: nimbus.CodeCancelled, Message: "stopped while waiting for the database", Err: ctx.Err()}
		case <-time.After(pause):
		}
	}
}

// gaveUp adds to what is wrong how long it was so.
func gaveUp(err error, patience time.Duration) error {
	var own *nimbus.Error
	if patience <= 0 || !errors.As(err, &own) {
		return err
	}
	out := *own
	out.Message += ", for " + patience.String()
	return out.WithHint("%s; --database-wait says how long a start waits", own.Hint)
}

// ofDriver is what an error of ours says, and what the driver said.
func ofDriver(err error) (what, why string) {
	var own *nimbus.Error
	if errors.As(err, &own) {
		what = own.Message
	}
	for errors.As(err, &own) && own.Err != nil {
		err = own.Err
	}
	return cmp.Or(what, err.Error()), err.Error()
}
