package tiered

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
)

// Times of letting go.
const (
	sweepEvery = 10 * time.Minute
	// Who sweeps waits that long after a start, when there is enough to do.
	sweepFirst = time.Minute
	// lateEnd is how long the first store waits for lines that a host still has of a
	// log that is over and not whole.
	lateEnd = 7 * 24 * time.Hour
	// noLag is how old what waits to be copied may be for a log that is over for long
	// to have been copied.
	noLag = time.Minute
)

// Bounds of one sweep's steps.
const (
	listPage   = 500
	repairPage = 10_000
	// toldFailures is of how many logs each failure is told.
	toldFailures = 20
)

// Books tell of orgs and attempts.
type Books interface {
	// Orgs returns the ids of up to limit orgs that sort after one.
	Orgs(ctx context.Context, after string, limit int) ([]string, error)
	// LogOver tells since when an attempt is over, zero for one that isn't, and
	// whether its log is whole.
	LogOver(ctx context.Context, key nimbus.LogKey) (since time.Time, whole bool, err error)
}

// Copier writes lines to the second store.
type Copier interface {
	Write(ctx context.Context, p logs.Part) error
}

// Sweeper has the first store let go of logs that are over for long, once the second
// has every line of them. What the second lost, as a server without power may, is
// copied again.
type Sweeper struct {
	Store  *Store
	Books  Books
	Outbox logs.Outbox
	Copier Copier
	Log    *slog.Logger

	failed int // logs of which a sweep could not let go
}

// Run sweeps until ctx ends.
func (w *Sweeper) Run(ctx context.Context) {
	timer := time.NewTimer(sweepFirst)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		gone, err := w.Sweep(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			w.Log.WarnContext(ctx, "letting go of older logs failed, it is tried again", "error", err)
		case gone > 0:
			w.Log.InfoContext(ctx, "the first store let go of older logs", "logs", gone)
		}
		timer.Reset(sweepEvery)
	}
}

// Sweep looks at every log of the first store once, and returns of how many it let
// go. What can't be let go of is told, and keeps no other.
func (w *Sweeper) Sweep(ctx context.Context) (gone int, err error) {
	w.failed = 0
	defer func() {
		if w.failed > toldFailures {
			w.Log.WarnContext(ctx, "more logs could not be let go of", "logs", w.failed-toldFailures)
		}
	}()
	for after := ""; ; {
		orgs, err := w.Books.Orgs(ctx, after, listPage)
		if err != nil || len(orgs) == 0 {
			return gone, err
		}
		for _, org := range orgs {
			n, err := w.sweepOrg(ctx, org)
			gone += n
			if logs.Aborts(ctx, err) {
				return gone, fmt.Errorf("let go of logs of %s: %w", org, err)
			}
			if err != nil {
				w.tell(ctx, nimbus.LogKey{OrgID: org}, err)
			}
		}
		after = orgs[len(orgs)-1]
	}
}

// tell tells of a log that stays because of an error, within a bound.
func (w *Sweeper) tell(ctx context.Context, key nimbus.LogKey, err error) {
	if w.failed++; w.failed <= toldFailures {
		w.Log.WarnContext(ctx, "an older log could not be let go of, it is tried again", "org", key.OrgID, "log", key.AttemptID, "error", err)
	}
}

func (w *Sweeper) sweepOrg(ctx context.Context, org string) (gone int, err error) {
	for after := ""; ; {
		attempts, err := w.Store.first.List(ctx, org, after, listPage)
		if err != nil || len(attempts) == 0 {
			return gone, err
		}
		for _, attempt := range attempts {
			at, _ := nimbus.IDTime(nimbus.PrefixAttempt, attempt)
			if w.Store.now().Sub(at) < w.Store.local { // as are all that follow
				return gone, nil
			}
			key := nimbus.LogKey{OrgID: org, AttemptID: attempt}
			switch went, err := w.letGo(ctx, key); {
			case logs.Aborts(ctx, err):
				return gone, err
			case err != nil:
				w.tell(ctx, key, err)
			case went:
				gone++
			}
		}
		after = attempts[len(attempts)-1]
	}
}

// letGo removes a log from the first store if the second has it whole, and has it
// copied again if it hasn't.
func (w *Sweeper) letGo(ctx context.Context, key nimbus.LogKey) (bool, error) {
	over, whole, err := w.Books.LogOver(ctx, key)
	if err != nil || over.IsZero() {
		return false, err
	}
	if age := w.Store.now().Sub(over); age < w.Store.local || !whole && age < w.Store.local+lateEnd {
		return false, nil
	}
	acked, err := w.Store.first.Acked(ctx, key)
	if err != nil || acked == 0 {
		return false, err
	}
	lines, last, err := w.Store.second.Held(ctx, key)
	if err != nil {
		return false, err
	}
	if lines == acked && last == acked {
		err := w.Store.first.Delete(ctx, key)
		return err == nil, err
	}
	return false, w.repair(ctx, key)
}

// repair copies a log again, unless it is about to be copied, or was refused.
func (w *Sweeper) repair(ctx context.Context, key nimbus.LogKey) error {
	bytes, oldest, err := w.Outbox.Lag(ctx)
	if err != nil || bytes > 0 && w.Store.now().Sub(oldest) > noLag {
		return err
	}
	if parked, err := w.Store.second.Parked(ctx, key); err != nil || parked {
		return err
	}
	w.Log.WarnContext(ctx, "the second store lacks lines of an older log: they are copied again", "org", key.OrgID, "log", key.AttemptID)
	for from := int64(1); ; {
		page, err := w.Store.first.Read(ctx, key, from, repairPage)
		if err != nil || len(page) == 0 {
			return err
		}
		if err := w.Copier.Write(ctx, logs.Part{Key: key, Lines: page}); err != nil {
			return err
		}
		from = page[len(page)-1].Seq + 1
	}
}
