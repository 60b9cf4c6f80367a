// Package logs keeps the lines that jobs write: on the host's disk until the
// server has them (wal), on the server for good (segment), live to whoever
// reads along (Tail).
package logs

import (
	"context"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/bus"
)

// Store keeps lines on the server. Its methods are safe for concurrent use.
type Store interface {
	// Append stores lines, which are contiguous, and returns the highest line
	// up to which the log is stored without gaps. When it returns they are on
	// disk. Lines that it has are ignored; lines that would leave a gap are not
	// stored, and the answer says from where to send again. Codes: too_large
	// for a log over its bound.
	Append(ctx context.Context, key nimbus.LogKey, lines []nimbus.Line) (acked int64, err error)
	// Read returns up to limit lines from line number from on, none at the end.
	Read(ctx context.Context, key nimbus.LogKey, from int64, limit int) ([]nimbus.Line, error)
	// Acked returns the highest line stored, 0 for none.
	Acked(ctx context.Context, key nimbus.LogKey) (int64, error)
	// Delete removes a log; one that isn't there is fine.
	Delete(ctx context.Context, key nimbus.LogKey) error
}

// Aborts tells whether an error is of more than the one log that was looked at: the
// store does not answer, or who asks has gone. One bad log keeps nobody from the others.
func Aborts(ctx context.Context, err error) bool {
	return err != nil && (ctx.Err() != nil || nimbus.ErrorCode(err) == nimbus.CodeUnavailable)
}

// Reader is what a tail needs of a store.
type Reader interface {
	Read(ctx context.Context, key nimbus.LogKey, from int64, limit int) ([]nimbus.Line, error)
}

// pollInterval is how often a tail looks by itself: announcements may be lost.
const pollInterval = time.Second

// pageLines is how many lines a tail reads at once.
const pageLines = 500

// Fresher is a reader that shares reads: its Fresh shares none, so that what it reads is
// of after the call.
type Fresher interface{ Fresh() Reader }

// Tail reads a log from line number from on and hands each page to emit. At
// its end it asks done whether more will come, and waits for more if so. done
// is asked before the last read, so that nothing written before it is missed.
func Tail(ctx context.Context, store Reader, b bus.Bus, key nimbus.LogKey, from int64, done func(context.Context) (bool, error), emit func([]nimbus.Line) error) error {
	sub := b.Subscribe(bus.LogTopic(key.AttemptID))
	defer sub.Close()
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	for {
		finished, err := done(ctx)
		if err != nil {
			return err
		}
		// A read that began before done was asked may lack the last lines.
		reader := store
		if shared, ok := store.(Fresher); ok && finished {
			reader = shared.Fresh()
		}
		for {
			page, err := reader.Read(ctx, key, from, pageLines)
			if err != nil {
				return err
			}
			if len(page) == 0 {
				break
			}
			if err := emit(page); err != nil {
				return err
			}
			from = page[len(page)-1].Seq + 1
		}
		if finished {
			return nil
		}
		select {
		case <-sub.C:
		case <-poll.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
