package store

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

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

// Logs keeps logs in the database, for replicas that have no disk in common.
// It implements logs.Store.
type Logs struct {
	store    *Store
	maxBytes int64
	encoder  *zstd.Encoder
	decoder  *zstd.Decoder
}

var _ logs.Store = (*Logs)(nil)

// Logs returns the store of logs. maxBytes bounds one log, compressed.
func (s *Store) Logs(maxBytes int64) (*Logs, error) {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxPageBytes))
	if err != nil {
		return nil, err
	}
	return &Logs{store: s, maxBytes: maxBytes, encoder: encoder, decoder: decoder}, nil
}

// storedLine is a line in a page.
type storedLine struct {
	Seq    int64         `json:"n"`
	At     int64         `json:"t"`
	Stream nimbus.Stream `json:"s"`
	Step   int32         `json:"p,omitempty"`
	Group  int32         `json:"g,omitempty"`
	Text   string        `json:"x"`
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
		page, err := l.encode(fresh)
		if err != nil {
			return err
		}
		if size+int64(len(page)) > l.maxBytes {
			return nimbus.Errorf(nimbus.CodeTooLarge, "the log has %d MiB, compressed: more is not kept", l.maxBytes>>20)
		}
		last := fresh[len(fresh)-1].Seq
		err = t.InsertLogPage(ctx, gen.InsertLogPageParams{AttemptID: key.AttemptID, FirstSeq: acked + 1, LastSeq: last, OrgID: key.OrgID, Lines: page})
		if err == nil {
			acked = last
		}
		return err
	})
	return acked, err
}

func (l *Logs) encode(lines []nimbus.Line) ([]byte, error) {
	var raw bytes.Buffer
	out := json.NewEncoder(&raw)
	for _, line := range lines {
		err := out.Encode(storedLine{Seq: line.Seq, At: line.At.UnixMicro(), Stream: line.Stream, Step: line.Step, Group: line.Group, Text: line.Text})
		if err != nil {
			return nil, fmt.Errorf("encode a line: %w", err)
		}
	}
	return l.encoder.EncodeAll(raw.Bytes(), nil), nil
}

// Read implements logs.Store.
func (l *Logs) Read(ctx context.Context, key nimbus.LogKey, from int64, limit int) (lines []nimbus.Line, err error) {
	for len(lines) < limit {
		var pages [][]byte
		err := l.store.read(ctx, func(t *tx) (err error) {
			pages, err = t.LogPages(ctx, gen.LogPagesParams{AttemptID: key.AttemptID, OrgID: key.OrgID, LastSeq: from, Limit: pagesAtOnce})
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, page := range pages {
			if lines, err = l.decode(page, from, limit, lines); err != nil {
				return nil, err
			}
		}
		if len(pages) < pagesAtOnce || len(lines) == 0 {
			break
		}
		from = lines[len(lines)-1].Seq + 1
	}
	return lines, nil
}

// decode adds the lines of a page from number from on, up to limit in all.
func (l *Logs) decode(page []byte, from int64, limit int, lines []nimbus.Line) ([]nimbus.Line, error) {
	raw, err := l.decoder.DecodeAll(page, nil)
	if err != nil {
		return nil, fmt.Errorf("unpack a page of a log: %w", err)
	}
	for in := json.NewDecoder(bytes.NewReader(raw)); in.More() && len(lines) < limit; {
		var s storedLine
		if err := in.Decode(&s); err != nil {
			return nil, fmt.Errorf("read a page of a log: %w", err)
		}
		if s.Seq >= from {
			lines = append(lines, nimbus.Line{Seq: s.Seq, At: fromMicros(s.At), Stream: s.Stream, Step: s.Step, Group: s.Group, Text: s.Text})
		}
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

// Delete implements logs.Store.
func (l *Logs) Delete(ctx context.Context, key nimbus.LogKey) error {
	return l.store.write(ctx, func(t *tx) error {
		return t.DeleteLog(ctx, gen.DeleteLogParams{AttemptID: key.AttemptID, OrgID: key.OrgID})
	})
}
