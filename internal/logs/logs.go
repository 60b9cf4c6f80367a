// Package logs keeps the lines that jobs write: on the host's disk until the
// server has them (wal), on the server for good (segment), live to whoever
// reads along (Tail).
package logs

import (
	"context"
	"errors"
	"fmt"
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
	// Read returns up to limit lines from line number from on, none at the end. Lines
	// that are damaged are a DamagedError, and nothing of what lies before or behind it.
	Read(ctx context.Context, key nimbus.LogKey, from int64, limit int) ([]nimbus.Line, error)
	// Acked returns the highest line stored, 0 for none.
	Acked(ctx context.Context, key nimbus.LogKey) (int64, error)
	// Delete removes a log; one that isn't there is fine.
	Delete(ctx context.Context, key nimbus.LogKey) error
}

// DamagedError says that lines First to Last of a log are there and can't be read. What
// lies behind them can: who reads goes on with line Last+1.
type DamagedError struct {
	First, Last int64
	Err         error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("lines %d to %d of a log can't be read: %v", e.First, e.Last, e.Err)
}

func (e *DamagedError) Unwrap() error { return e.Err }

// ReadOn reads as Read does, and tells of lines that can't be read apart: damaged is nil,
// or those from number from on, and there are no lines then.
func ReadOn(ctx context.Context, store Reader, key nimbus.LogKey, from int64, limit int) (lines []nimbus.Line, damaged *DamagedError, err error) {
	lines, err = store.Read(ctx, key, from, limit)
	if errors.As(err, &damaged) && damaged.Last >= from { // else it would be told for ever
		return nil, &DamagedError{First: max(from, damaged.First), Last: damaged.Last, Err: err}, nil
	}
	if err != nil {
		return nil, nil, err
	}
	lines, damaged = withoutLost(lines)
	return lines, damaged, nil
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

// Follower takes what a tail reads.
type Follower interface {
	// Over tells whether no more lines will come.
	Over(ctx context.Context) (bool, error)
	// Lines takes a page of lines.
	Lines(page []nimbus.Line) error
	// Damaged is told of lines that can't be read. The next that comes lies behind them.
	Damaged(ctx context.Context, lines *DamagedError) error
}

// Tail reads a log from line number from on and hands each page to f. At
// its end it asks f whether more will come, and waits for more if so. That
// is asked before the last read, so that nothing written before it is missed.
func Tail(ctx context.Context, store Reader, b bus.Bus, key nimbus.LogKey, from int64, f Follower) error {
	sub := b.Subscribe(bus.LogTopic(key.AttemptID))
	defer sub.Close()
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	for {
		finished, err := f.Over(ctx)
		if err != nil {
			return err
		}
		// A read that began before that was asked may lack the last lines.
		reader := store
		if shared, ok := store.(Fresher); ok && finished {
			reader = shared.Fresh()
		}
		for {
			page, damaged, err := ReadOn(ctx, reader, key, from, pageLines)
			if err != nil {
				return err
			}
			if damaged != nil {
				if err := f.Damaged(ctx, damaged); err != nil {
					return err
				}
				from = damaged.Last + 1
				continue
			}
			if len(page) == 0 {
				break
			}
			if err := f.Lines(page); err != nil {
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
