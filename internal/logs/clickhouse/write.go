package clickhouse

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/google/uuid"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
)

// Bounds of a block: what is larger is cut, always at the same lines.
const (
	maxBlockRows = 100_000
	maxBlockText = 64 << 20
)

// Times that the tables hold, in microseconds; others become the nearest of them.
const (
	firstMicro = 0
	lastMicro  = 9_000_000_000_000_000 // 2255
)

func clampMicro(us int64) int64 { return min(max(us, firstMicro), lastMicro) }

// column is a column of an insert: its name and its type.
type column = clickhouse.ColumnNameAndType

// lineInsert are the columns of a block, in its order. They are named here so that
// the client needn't ask for them each time.
func lineInsert() []column {
	return []column{
		{Name: "org_id", Type: "UUID"}, {Name: "started_at", Type: "DateTime64(3, 'UTC')"}, {Name: "log_id", Type: "UUID"},
		{Name: "kind", Type: "Enum8('attempt' = 1, 'shell' = 2)"}, {Name: "seq", Type: "UInt64"}, {Name: "at", Type: "DateTime64(6, 'UTC')"},
		{Name: "step", Type: "UInt32"}, {Name: "grp", Type: "UInt32"},
		{Name: "stream", Type: "Enum8('stdout' = 1, 'stderr' = 2, 'system' = 3, 'step' = 4)"},
		{Name: "level", Type: "Enum8('none' = 0, 'debug' = 1, 'info' = 2, 'warn' = 3, 'error' = 4)"},
		{Name: "text", Type: "String"}, {Name: "class", Type: "UInt16"}, {Name: "expire_at", Type: "Date"},
	}
}

// block is rows of one insert.
type block struct {
	parts []logs.Part
	rows  int
}

// blocks cuts parts into what one insert each writes.
func blocks(parts []logs.Part) (out []block) {
	var (
		b    block
		text int
	)
	end := func() {
		if b.rows > 0 {
			out = append(out, b)
		}
		b, text = block{}, 0
	}
	for _, p := range parts {
		for lines := p.Lines; len(lines) > 0; {
			n := 0
			for n < len(lines) && b.rows+n < maxBlockRows && (text < maxBlockText || b.rows+n == 0) {
				text += len(lines[n].Text)
				n++
			}
			if n > 0 {
				b.parts = append(b.parts, logs.Part{Key: p.Key, Lines: lines[:n]})
				b.rows += n
				lines = lines[n:]
			}
			if len(lines) > 0 {
				end()
			}
		}
	}
	end()
	return out
}

// halves are the two of a block's rows, for one that is refused.
func (b block) halves() []block {
	left := b.rows / 2
	var out [2]block
	for _, p := range b.parts {
		n := min(left, len(p.Lines))
		left -= n
		for i, lines := range [][]nimbus.Line{p.Lines[:n], p.Lines[n:]} {
			if len(lines) > 0 {
				out[i].parts = append(out[i].parts, logs.Part{Key: p.Key, Lines: lines})
				out[i].rows += len(lines)
			}
		}
	}
	return out[:]
}

// token is of a block's content: the engine takes a block of which it knows the
// token for the one that it has.
func (b block) token() string {
	h := sha256.New()
	var buf []byte
	for _, p := range b.parts {
		buf = append(append(append(append(buf, p.Key.OrgID...), 0), p.Key.AttemptID...), 0)
		buf = binary.AppendUvarint(buf, uint64(len(p.Lines)))
		for _, l := range p.Lines {
			buf = logs.AppendRecord(buf, l)
			if len(buf) > 64<<10 {
				h.Write(buf)
				buf = buf[:0]
			}
		}
	}
	h.Write(buf)
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// classes are the longest times, in days, that are kept together: rows go when all
// of their part may.
func classes() []uint16 { return []uint16{7, 30, 90, 180, 400, 1100} }

// forEver is the last day that a Date holds.
var forEver = time.Date(2149, 6, 6, 0, 0, 0, 0, time.UTC)

// lifetime is the class of a retention and the day after which a log may go.
func lifetime(started int64, keep time.Duration) (class uint16, expires time.Time) {
	if keep <= 0 {
		return 0, forEver
	}
	const day = 24 * time.Hour
	days := int((keep + day - 1) / day)
	expires = time.UnixMilli(started).UTC().Truncate(day).AddDate(0, 0, days)
	if expires.After(forEver) {
		return 0, forEver
	}
	for _, class := range classes() {
		if int(class) >= days {
			return class, expires
		}
	}
	return 0, expires
}

// columns are a block's rows, each column for itself: a call for each row costs
// more than all else that the client does.
type columns struct {
	org, log    []uuid.UUID
	started, at []time.Time
	kind        []int8
	seq         []uint64
	step, grp   []uint32
	stream      []int8
	level       []int8
	text        []string
	class       []uint16
	expires     []time.Time
}

// encode makes the columns of a block. Codes: invalid for what can't be a row.
func (s *Store) encode(ctx context.Context, b block) (*columns, error) {
	c := &columns{
		org: make([]uuid.UUID, 0, b.rows), log: make([]uuid.UUID, 0, b.rows), started: make([]time.Time, 0, b.rows), at: make([]time.Time, 0, b.rows),
		kind: make([]int8, 0, b.rows), seq: make([]uint64, 0, b.rows), step: make([]uint32, 0, b.rows), grp: make([]uint32, 0, b.rows),
		stream: make([]int8, 0, b.rows), level: make([]int8, 0, b.rows), text: make([]string, 0, b.rows), class: make([]uint16, 0, b.rows), expires: make([]time.Time, 0, b.rows),
	}
	times := map[string]time.Duration{} // of orgs, each asked for once
	for _, p := range b.parts {
		id, err := identify(p.Key)
		if err != nil {
			return nil, err
		}
		keep, ok := times[p.Key.OrgID]
		if !ok {
			if keep, err = s.retention(ctx, p.Key.OrgID); err != nil {
				return nil, wrap("read how long logs are kept", err)
			}
			times[p.Key.OrgID] = keep
		}
		class, expires := lifetime(id.started, keep)
		for _, l := range p.Lines {
			stream := slices.Index(streams, l.Stream)
			if stream <= 0 || l.Seq < 0 || l.Step < 0 || l.Group < 0 {
				return nil, nimbus.Errorf(nimbus.CodeInvalid, "line %d of %s can't be kept in ClickHouse", l.Seq, p.Key.AttemptID)
			}
			c.org, c.log, c.kind, c.started = append(c.org, id.org), append(c.log, id.log), append(c.kind, id.kind), append(c.started, time.UnixMilli(id.started))
			c.seq, c.at = append(c.seq, uint64(l.Seq)), append(c.at, time.UnixMicro(clampMicro(l.At.UnixMicro())))
			c.step, c.grp = append(c.step, uint32(l.Step)), append(c.grp, uint32(l.Group))
			c.stream, c.level = append(c.stream, int8(stream)), append(c.level, int8(logs.LevelOf(l.Text)))
			c.text, c.class, c.expires = append(c.text, l.Text), append(c.class, class), append(c.expires, expires)
		}
	}
	return c, nil
}

// all are the columns in the order of lineInsert.
func (c *columns) all() []any {
	return []any{c.org, c.started, c.log, c.kind, c.seq, c.at, c.step, c.grp, c.stream, c.level, c.text, c.class, c.expires}
}

// insert writes a block once, however often it is called with it.
func (s *Store) insert(ctx context.Context, b block, token string) error {
	c, err := s.encode(ctx, b)
	if err != nil {
		return err
	}
	names := lineInsert()
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(insertSettings(token)), clickhouse.WithColumnNamesAndTypes(names))
	batch, err := s.conn.PrepareBatch(ctx, "INSERT INTO "+s.table("log_lines")+insertList(names))
	if err != nil {
		return wrap("begin a block", err)
	}
	defer func() { _ = batch.Close() }() // Send has closed it
	for i, values := range c.all() {
		if err := batch.Column(i).Append(values); err != nil {
			return nimbus.Errorf(nimbus.CodeInvalid, "make a block: %w", err)
		}
	}
	return wrap("write a block", batch.Send())
}

func insertList(names []column) string {
	list := " ("
	for i, n := range names {
		if i > 0 {
			list += ", "
		}
		list += n.Name
	}
	return list + ")"
}

// park writes down that lines were refused, and why.
func (s *Store) park(ctx context.Context, p logs.Part, reason string) error {
	id, err := identify(p.Key)
	if err != nil {
		return err
	}
	first, last := p.Lines[0].Seq, p.Lines[len(p.Lines)-1].Seq
	names := []column{
		{Name: "org_id", Type: "UUID"}, {Name: "log_id", Type: "UUID"}, {Name: "kind", Type: "Enum8('attempt' = 1, 'shell' = 2)"},
		{Name: "first_seq", Type: "UInt64"}, {Name: "last_seq", Type: "UInt64"}, {Name: "reason", Type: "String"},
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	token := fmt.Sprintf("%s-%d-%d", id.log, first, last)
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(insertSettings(token)), clickhouse.WithColumnNamesAndTypes(names))
	batch, err := s.conn.PrepareBatch(ctx, "INSERT INTO "+s.table("log_parked")+insertList(names))
	if err != nil {
		return wrap("note refused lines", err)
	}
	defer func() { _ = batch.Close() }() // Send has closed it
	if err := batch.Append(id.org, id.log, id.kind, uint64(first), uint64(last), reason[:min(len(reason), maxReason)]); err != nil {
		return wrap("note refused lines", err)
	}
	return wrap("note refused lines", batch.Send())
}

// maxReason bounds what is kept of the engine's words.
const maxReason = 1000

// Parked tells whether lines of a log were refused.
func (s *Store) Parked(ctx context.Context, key nimbus.LogKey) (bool, error) {
	id, err := identify(key)
	if err != nil {
		return false, err
	}
	q := s.newQuery("log_parked", id.org)
	q.where = q.where[:1] // it has no time of its own
	q.and("log_id = {log:UUID}", "log", id.log.String())
	var n uint64
	err = q.one(ctx, "count()", &n)
	return n > 0, readable("look for refused lines", err)
}
