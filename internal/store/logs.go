package store

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

const (
	// maxPageBytes bounds a page of a log when it is read back: an append is at
	// most one message of the API.
	maxPageBytes = 64 << 20
	// pagesAtOnce is how many pages one read of a log looks at.
	pagesAtOnce = 16
)

// Formats of pages.
const (
	formatJSON    = 0 // JSON lines, of before; a byte that is no UTF-8 is lost in them
	formatRecords = 1 // see logs.AppendRecord
)

// Logs keeps logs in the database, for replicas that have no disk in common. It
// implements logs.Store, logs.Looker and logs.Searcher, and logs.Outbox when it was
// made WithOutbox.
type Logs struct {
	store    *Store
	maxBytes int64
	outbox   bool
	search   time.Duration // of a page of a search
	encoder  *zstd.Encoder
	decoder  *zstd.Decoder
}

var (
	_ logs.Store    = (*Logs)(nil)
	_ logs.Looker   = (*Logs)(nil)
	_ logs.Searcher = (*Logs)(nil)
	_ logs.Outbox   = (*Logs)(nil)
)

// LogsOption changes how logs are kept.
type LogsOption func(*Logs)

// WithOutbox remembers which pages a second store does not have yet.
func WithOutbox() LogsOption { return func(l *Logs) { l.outbox = true } }

// Logs returns the store of logs. maxBytes bounds one log, compressed.
func (s *Store) Logs(maxBytes int64, options ...LogsOption) (*Logs, error) {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxPageBytes))
	if err != nil {
		return nil, err
	}
	l := &Logs{store: s, maxBytes: maxBytes, search: searchTime, encoder: encoder, decoder: decoder}
	for _, o := range options {
		o(l)
	}
	return l, nil
}

// Append implements logs.Store.
func (l *Logs) Append(ctx context.Context, key nimbus.LogKey, lines []nimbus.Line) (acked int64, err error) {
	err = l.store.write(ctx, func(t *tx) error {
		// Two that append at once have one first line, and one of them fails.
		if acked, err = t.LogAcked(ctx, gen.LogAckedParams{AttemptID: key.AttemptID, OrgID: key.OrgID}); err != nil {
			return err
		}
		fresh := lines
		for len(fresh) > 0 && fresh[0].Seq <= acked {
			fresh = fresh[1:]
		}
		if len(fresh) == 0 || fresh[0].Seq != acked+1 {
			return nil
		}
		size, err := t.LogBytes(ctx, key.AttemptID)
		if err != nil {
			return err
		}
		page, err := l.page(key, fresh)
		if err != nil {
			return err
		}
		if size+int64(len(page.Lines)) > l.maxBytes {
			return nimbus.Errorf(nimbus.CodeTooLarge, "the log has %d MiB, compressed: more is not kept", l.maxBytes>>20)
		}
		if err := t.InsertLogPage(ctx, page); err != nil {
			return err
		}
		if l.outbox && nimbus.CheckID(nimbus.PrefixAttempt, key.AttemptID) == nil { // what passed in shells is not handed on
			err := t.InsertLogOutbox(ctx, gen.InsertLogOutboxParams{
				AttemptID: key.AttemptID, FirstSeq: page.FirstSeq, OrgID: key.OrgID, TextBytes: page.TextBytes, AddedAt: micros(t.now),
			})
			if err != nil {
				return err
			}
		}
		acked = page.LastSeq
		return nil
	})
	return acked, err
}

// page makes a page of lines.
func (l *Logs) page(key nimbus.LogKey, lines []nimbus.Line) (gen.InsertLogPageParams, error) {
	p := gen.InsertLogPageParams{
		AttemptID: key.AttemptID, FirstSeq: lines[0].Seq, LastSeq: lines[len(lines)-1].Seq, OrgID: key.OrgID, Format: formatRecords,
		FirstAt: lines[0].At.UnixMicro(), LastAt: lines[0].At.UnixMicro(),
	}
	var raw []byte
	var levels [logs.LevelError + 1]int64
	for i, line := range lines {
		if line.Seq != p.FirstSeq+int64(i) {
			return p, nimbus.Errorf(nimbus.CodeInvalid, "line %d follows line %d", line.Seq, p.FirstSeq+int64(i)-1)
		}
		raw = logs.AppendRecord(raw, line)
		level := logs.LevelOf(line.Text)
		levels[level]++
		p.MaxLevel = max(p.MaxLevel, int64(level))
		p.FirstAt, p.LastAt = min(p.FirstAt, line.At.UnixMicro()), max(p.LastAt, line.At.UnixMicro())
		p.TextBytes += int64(len(line.Text)) + 1
	}
	p.DebugLines, p.InfoLines, p.WarnLines, p.ErrorLines = levels[logs.LevelDebug], levels[logs.LevelInfo], levels[logs.LevelWarn], levels[logs.LevelError]
	p.Lines = l.encoder.EncodeAll(raw, nil)
	return p, nil
}

// storedLine is a line in a page of JSON.
type storedLine struct {
	Seq    int64         `json:"n"`
	At     int64         `json:"t"`
	Stream nimbus.Stream `json:"s"`
	Step   int32         `json:"p,omitempty"`
	Group  int32         `json:"g,omitempty"`
	Text   string        `json:"x"`
}

// lines reads a page.
func (l *Logs) lines(format int64, page []byte) (lines []nimbus.Line, err error) {
	raw, err := l.decoder.DecodeAll(page, nil)
	if err != nil {
		return nil, fmt.Errorf("unpack a page of a log: %w", err)
	}
	switch format {
	case formatRecords:
		for len(raw) > 0 {
			var line nimbus.Line
			if line, raw, err = logs.DecodeRecord(raw); err != nil {
				return nil, fmt.Errorf("read a page of a log: %w", err)
			}
			lines = append(lines, line)
		}
	case formatJSON:
		for in := json.NewDecoder(bytes.NewReader(raw)); in.More(); {
			var s storedLine
			if err := in.Decode(&s); err != nil {
				return nil, fmt.Errorf("read a page of a log: %w", err)
			}
			lines = append(lines, nimbus.Line{Seq: s.Seq, At: fromMicros(s.At), Stream: s.Stream, Step: s.Step, Group: s.Group, Text: s.Text})
		}
	default:
		return nil, fmt.Errorf("read a page of a log: its format %d is of a later release", format)
	}
	return lines, nil
}

// Read implements logs.Store.
func (l *Logs) Read(ctx context.Context, key nimbus.LogKey, from int64, limit int) (lines []nimbus.Line, err error) {
	for len(lines) < limit {
		var pages []gen.LogPagesRow
		err := l.store.read(ctx, func(t *tx) (err error) {
			pages, err = t.LogPages(ctx, gen.LogPagesParams{AttemptID: key.AttemptID, OrgID: key.OrgID, LastSeq: from, Limit: pagesAtOnce})
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, page := range pages {
			more, err := l.lines(page.Format, page.Lines)
			if err != nil && len(lines) > 0 {
				return lines, nil // the next call tells
			}
			if err != nil {
				return nil, &logs.DamagedError{First: max(from, page.FirstSeq), Last: page.LastSeq, Err: err}
			}
			for _, line := range more {
				if line.Seq >= from && len(lines) < limit {
					lines = append(lines, line)
				}
			}
			if len(lines) == limit {
				return lines, nil
			}
		}
		if len(pages) < pagesAtOnce || len(lines) == 0 {
			break
		}
		from = lines[len(lines)-1].Seq + 1
	}
	return lines, nil
}

// Acked implements logs.Store.
func (l *Logs) Acked(ctx context.Context, key nimbus.LogKey) (acked int64, err error) {
	err = l.store.read(ctx, func(t *tx) error {
		acked, err = t.LogAcked(ctx, gen.LogAckedParams{AttemptID: key.AttemptID, OrgID: key.OrgID})
		return err
	})
	return acked, err
}

// Counts implements logs.Looker.
func (l *Logs) Counts(ctx context.Context, key nimbus.LogKey) (c logs.Counts, err error) {
	err = l.store.read(ctx, func(t *tx) error {
		row, err := t.LogCounts(ctx, gen.LogCountsParams{AttemptID: key.AttemptID, OrgID: key.OrgID})
		if err != nil {
			return err
		}
		c = logs.Counts{Lines: row.Lines, Bytes: row.TextBytes}
		if row.Lines > 0 {
			c.First, c.Last = fromMicros(row.FirstAt), fromMicros(row.LastAt)
		}
		c.ByLevel = [...]int64{row.Lines - row.DebugLines - row.InfoLines - row.WarnLines - row.ErrorLines, row.DebugLines, row.InfoLines, row.WarnLines, row.ErrorLines}
		return l.countBefore(ctx, t, key, &c)
	})
	return c, err
}

// countBefore adds the lines of pages of which nothing is known.
func (l *Logs) countBefore(ctx context.Context, t *tx, key nimbus.LogKey, c *logs.Counts) error {
	for after := int64(0); ; {
		pages, err := t.LogPagesOfBefore(ctx, gen.LogPagesOfBeforeParams{AttemptID: key.AttemptID, OrgID: key.OrgID, FirstSeq: after})
		if err != nil || len(pages) == 0 {
			return err
		}
		lines, err := l.lines(formatJSON, pages[0])
		if err != nil || len(lines) == 0 {
			return err
		}
		for _, line := range lines {
			c.Lines++
			c.Bytes += int64(len(line.Text)) + 1
			c.ByLevel[logs.LevelOf(line.Text)]++
			if c.First.IsZero() || line.At.Before(c.First) {
				c.First = line.At
			}
			if line.At.After(c.Last) {
				c.Last = line.At
			}
		}
		after = lines[0].Seq
	}
}

// Ids of attempts begin so, and sort after this.
const beforeAttempts = nimbus.PrefixAttempt + "_"

// List implements logs.Looker.
func (l *Logs) List(ctx context.Context, orgID, after string, limit int) (ids []string, err error) {
	err = l.store.read(ctx, func(t *tx) error {
		ids, err = t.LogsAfter(ctx, gen.LogsAfterParams{OrgID: orgID, AttemptID: max(after, beforeAttempts), Limit: int32(min(limit, math.MaxInt32))})
		return err
	})
	return ids, err
}

// Delete implements logs.Store.
func (l *Logs) Delete(ctx context.Context, key nimbus.LogKey) error {
	return l.store.write(ctx, func(t *tx) error {
		if err := t.DeleteLogFromOutbox(ctx, gen.DeleteLogFromOutboxParams{AttemptID: key.AttemptID, OrgID: key.OrgID}); err != nil {
			return err
		}
		return t.DeleteLog(ctx, gen.DeleteLogParams{AttemptID: key.AttemptID, OrgID: key.OrgID})
	})
}
