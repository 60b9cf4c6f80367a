package segment

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
)

// Bounds of a batch.
const (
	batchLines = 50_000
	batchBytes = 8 << 20
)

// errNoOutbox is what a store without one says.
var errNoOutbox = nimbus.Errorf(nimbus.CodeConflict, "the log store was opened without an outbox") //nolint:gochecknoglobals // a constant

// Next implements logs.Outbox. Where a batch ends is written down before it is
// handed out: it is the same lines however often it is asked for, but for those of logs
// that are deleted meanwhile.
func (s *Store) Next(_ context.Context) (b logs.Batch, ok bool, err error) {
	if !s.outbox {
		return b, false, errNoOutbox
	}
	for {
		st := s.journal.current()
		from, size, found := s.journal.after(st.Shipped)
		if !found {
			return b, false, nil
		}
		until := int64(0)
		if from.before(st.Offered) && from.File == st.Offered.File {
			until = st.Offered.Offset
		}
		b, end, err := s.batch(from, size, until)
		if err != nil {
			return b, false, fmt.Errorf("read the outbox: %w", err)
		}
		switch {
		case len(b.Logs) > 0:
			err := s.journal.change(func(st *state) { st.Offered = position{from.File, end} })
			return b, err == nil, err
		case end == from.Offset: // what follows is no record: the next file
			s.log.Error("a file of the journal can't be read further: what follows in it is not copied", "file", from.File, "from", end, "size", size)
			end = size
		}
		if err := s.journal.change(func(st *state) { st.Shipped = position{from.File, end} }); err != nil {
			return b, false, err
		}
	}
}

// after is where the records of lines that are not shipped begin, and where those of
// that file end.
func (j *journal) after(p position) (from position, size int64, ok bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, part := range j.parts {
		from := position{part.number, int64(len(journalMagic))}
		if part.number < p.File || part.number == p.File && p.Offset >= part.size || from.Offset >= part.size {
			continue
		}
		if part.number == p.File {
			from.Offset = max(from.Offset, p.Offset)
		}
		return from, part.size, true
	}
	return from, 0, false
}

// batch reads records, up to the bounds of a batch or an offset.
func (s *Store) batch(from position, size, until int64) (b logs.Batch, end int64, err error) {
	lines, kept := 0, map[nimbus.LogKey]int64{}
	parts := batchParts{at: map[nimbus.LogKey]int{}}
	end, err = s.journal.read(from.File, from.Offset, size, func(e entry) (bool, error) {
		switch {
		case isRecording(e.key):
		case e.kind == kindDelete:
			parts.drop(e.key)
		default:
			more, err := e.decode()
			if err != nil {
				return false, err
			}
			lines += len(more)
			last, ok := kept[e.key]
			if !ok || len(more) > 0 && more[len(more)-1].Seq > last { // it may have grown since
				if last, err = s.kept(e.key); err != nil {
					return false, err
				}
				kept[e.key] = last
			}
			for len(more) > 0 && more[len(more)-1].Seq > last {
				more = more[:len(more)-1]
			}
			parts.add(e.key, more)
		}
		if until > 0 {
			return e.end < until, nil
		}
		return lines < batchLines && e.end-from.Offset < batchBytes, nil
	})
	b.ID, b.Logs = batchID(position{from.File, end}), parts.whole()
	return b, end, err
}

// kept is the last line that a log has now: what the journal has beyond it was deleted,
// and a second store that was told so already would keep it for long. Of a log whose file
// is damaged the journal may have more.
func (s *Store) kept(key nimbus.LogKey) (int64, error) {
	a, err := s.lockForWriting(key) // who appends has the lines in the log when it lets go
	if err != nil {
		return 0, err
	}
	defer s.release(a)
	defer a.writing.Unlock()
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.torn {
		return math.MaxInt64, nil
	}
	return a.lastLine(), nil
}

// batchParts gathers the logs of a batch.
type batchParts struct {
	parts []logs.Part
	at    map[nimbus.LogKey]int // the last one of each log
}

func (b *batchParts) add(key nimbus.LogKey, lines []nimbus.Line) {
	if len(lines) == 0 {
		return
	}
	i, ok := b.at[key]
	if ok && lines[0].Seq != b.parts[i].Lines[len(b.parts[i].Lines)-1].Seq+1 {
		ok = false // some between were deleted
	}
	if !ok {
		i, b.at[key] = len(b.parts), len(b.parts)
		b.parts = append(b.parts, logs.Part{Key: key})
	}
	b.parts[i].Lines = append(b.parts[i].Lines, lines...)
}

// drop leaves out what there is of a log that is deleted then.
func (b *batchParts) drop(key nimbus.LogKey) {
	delete(b.at, key)
	for i := range b.parts {
		if b.parts[i].Key == key {
			b.parts[i].Lines = nil
		}
	}
}

func (b *batchParts) whole() []logs.Part {
	return slices.DeleteFunc(b.parts, func(p logs.Part) bool { return len(p.Lines) == 0 })
}

// batchID is made of where a batch ends. A file of the journal has less than 2^32 bytes.
func batchID(p position) int64 { return p.File<<32 | p.Offset }

// Shipped implements logs.Outbox.
func (s *Store) Shipped(_ context.Context, id int64) error {
	if !s.outbox {
		return errNoOutbox
	}
	to := position{id >> 32, id & (1<<32 - 1)}
	if s.journal.current().Offered.before(to) {
		return nimbus.Errorf(nimbus.CodeInvalid, "batch %d was not handed out", id)
	}
	err := s.journal.change(func(st *state) {
		if st.Shipped.before(to) {
			st.Shipped = to
		}
	})
	if err != nil {
		return err
	}
	s.nudge()
	return nil
}

// Lag implements logs.Outbox.
func (s *Store) Lag(_ context.Context) (bytes int64, oldest time.Time, err error) {
	if !s.outbox {
		return 0, oldest, errNoOutbox
	}
	from, _, ok := s.journal.after(s.journal.current().Shipped)
	if !ok {
		return 0, oldest, nil
	}
	for _, p := range s.journal.list() {
		switch {
		case p.number == from.File:
			bytes += p.size - from.Offset
		case p.number > from.File:
			bytes += p.size
		}
	}
	_, err = s.journal.read(from.File, from.Offset, from.Offset+maxRecord, func(e entry) (bool, error) {
		oldest = e.at
		return false, nil
	})
	if err != nil {
		return 0, oldest, fmt.Errorf("read the outbox: %w", err)
	}
	return bytes, oldest, nil
}
