package clickhouse

import (
	"context"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
)

var (
	_ logs.Looker   = (*Store)(nil)
	_ logs.Searcher = (*Store)(nil)
)

// lineColumns are those that scanLine reads.
const lineColumns = "seq, at, CAST(stream, 'Int8'), step, grp, text"

func scanLine(rows driver.Rows, before ...any) (nimbus.Line, error) {
	var (
		l         nimbus.Line
		seq       uint64
		stream    int8
		step, grp uint32
	)
	if err := rows.Scan(append(before, &seq, &l.At, &stream, &step, &grp, &l.Text)...); err != nil {
		return l, err
	}
	l.Seq, l.Stream, l.Step, l.Group, l.At = int64(seq), streams[stream], int32(step), int32(grp), l.At.UTC()
	return l, nil
}

// Read returns up to limit lines from line number from on, none at the end. Codes:
// unavailable.
func (s *Store) Read(ctx context.Context, key nimbus.LogKey, from int64, limit int) ([]nimbus.Line, error) {
	id, err := identify(key)
	if err != nil {
		return nil, err
	}
	// A line that came in two blocks is merged some day, and read once until then.
	q := s.newQuery("log_lines", id.org).log(id).andInt("seq >= {from:Int64}", "from", from).
		then("ORDER BY org_id, started_at, log_id, seq LIMIT 1 BY org_id, started_at, log_id, seq LIMIT %d", limit)
	return q.lines(ctx)
}

func (q *query) lines(ctx context.Context) (out []nimbus.Line, err error) {
	err = q.rows(ctx, lineColumns, func(rows driver.Rows) (bool, error) {
		l, err := scanLine(rows)
		out = append(out, l)
		return true, err
	})
	if err != nil {
		return nil, readable("read a log", err)
	}
	return out, nil
}

// Held tells how many lines of a log are there, each counted once, and the highest.
// A log is whole if both are its number of lines. Codes: unavailable.
func (s *Store) Held(ctx context.Context, key nimbus.LogKey) (lines, last int64, err error) {
	id, err := identify(key)
	if err != nil {
		return 0, 0, err
	}
	var n, highest uint64
	err = s.newQuery("log_lines", id.org).log(id).one(ctx, "uniqExact(seq), max(seq)", &n, &highest)
	return int64(n), int64(highest), readable("count a log's lines", err)
}

// Counts implements logs.Looker. It counts each line once, whatever came twice.
func (s *Store) Counts(ctx context.Context, key nimbus.LogKey) (c logs.Counts, err error) {
	id, err := identify(key)
	if err != nil {
		return c, err
	}
	q := s.newQuery("log_lines", id.org).log(id).then("GROUP BY level")
	columns := "CAST(level, 'Int8'), uniqExact(seq), sum(length(text) + 1), count(), min(at), max(at)"
	twice := false
	err = q.rows(ctx, columns, func(rows driver.Rows) (bool, error) {
		var (
			level              int8
			lines, bytes, rowN uint64
			first, last        time.Time
		)
		if err := rows.Scan(&level, &lines, &bytes, &rowN, &first, &last); err != nil {
			return false, err
		}
		twice = twice || rowN != lines
		c.Lines += int64(lines)
		c.Bytes += int64(bytes)
		if level >= 0 && int(level) < len(c.ByLevel) {
			c.ByLevel[level] = int64(lines)
		}
		if first = first.UTC(); c.First.IsZero() || first.Before(c.First) {
			c.First = first
		}
		if last = last.UTC(); last.After(c.Last) {
			c.Last = last
		}
		return true, nil
	})
	if err == nil && twice {
		c.Bytes, err = s.bytesOnce(ctx, id)
	}
	return c, readable("count a log's lines", err)
}

// bytesOnce is how many bytes a log has of which lines came twice.
func (s *Store) bytesOnce(ctx context.Context, id logID) (int64, error) {
	total := int64(0)
	q := s.newQuery("log_lines", id.org).log(id).then("GROUP BY seq")
	err := q.rows(ctx, "any(length(text) + 1)", func(rows driver.Rows) (bool, error) {
		var n uint64
		err := rows.Scan(&n)
		total += int64(n)
		return true, err
	})
	return total, err
}

// List implements logs.Looker.
func (s *Store) List(ctx context.Context, orgID, after string, limit int) (out []string, err error) {
	org, err := orgUUID(orgID)
	if err != nil {
		return nil, err
	}
	q := s.newQuery("log_stats", org).attempts()
	if after != "" {
		id, err := identify(nimbus.LogKey{OrgID: orgID, AttemptID: after})
		if err != nil {
			return nil, err
		}
		q.andInt("started_at >= fromUnixTimestamp64Milli({started:Int64})", "started", id.started).
			and("(started_at, UUIDToNum(log_id)) > (fromUnixTimestamp64Milli({started:Int64}), UUIDToNum({after:UUID}))", "after", id.log.String())
	}
	q.then("GROUP BY started_at, log_id ORDER BY started_at, UUIDToNum(log_id) LIMIT %d", limit)
	err = q.rows(ctx, "log_id", func(rows driver.Rows) (bool, error) {
		var log uuid.UUID
		err := rows.Scan(&log)
		out = append(out, attemptOf(log))
		return true, err
	})
	return out, readable("list logs", err)
}

// Delete removes a log; one that isn't there is fine. Codes: unavailable.
func (s *Store) Delete(ctx context.Context, key nimbus.LogKey) error {
	id, err := identify(key)
	if err != nil {
		return err
	}
	for _, table := range []string{"log_lines", "log_stats"} {
		if err := s.newQuery(table, id.org).log(id).delete(ctx); err != nil {
			return readable("delete a log", err)
		}
	}
	return nil
}
