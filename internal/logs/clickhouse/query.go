package clickhouse

import (
	"context"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"
)

// query is a SELECT of rows of one org. There is no other way to the tables' rows:
// newQuery binds the org, and every value is a parameter, whose text is digits or
// hexadecimal, so that no value can be anything but a value.
type query struct {
	store      *Store
	table      string
	where      []string
	parameters clickhouse.Parameters
	rest       string // ORDER BY and what follows
	settings   clickhouse.Settings
}

// newQuery begins a query of an org's rows that are not over their time.
func (s *Store) newQuery(table string, org uuid.UUID) *query {
	return &query{
		store: s, table: s.table(table), parameters: clickhouse.Parameters{"org": org.String()},
		// The time of a whole part is that of its last row: rows may be there longer.
		where: []string{"org_id = {org:UUID}", "expire_at >= today()"},
		settings: clickhouse.Settings{
			"max_execution_time": int(readTimeout / time.Second), "max_memory_usage": maxQueryMemory,
			"max_result_bytes": maxResult, "result_overflow_mode": "throw", "readonly": 2,
			// What is away is said, not left out.
			"skip_unavailable_shards": 0,
		},
	}
}

// Bounds of one query.
const (
	maxQueryMemory = 2 << 30
	maxResult      = 256 << 20
)

// log narrows to one log.
func (q *query) log(id logID) *query {
	return q.and("started_at = fromUnixTimestamp64Milli({started:Int64})", "started", strconv.FormatInt(id.started, 10)).
		and("log_id = {log:UUID}", "log", id.log.String()).
		and("CAST(kind, 'Int8') = {kind:Int8}", "kind", strconv.Itoa(int(id.kind)))
}

// attempts narrows to logs of attempts.
func (q *query) attempts() *query {
	q.where = append(q.where, "kind = 'attempt'")
	return q
}

// and adds a condition on a parameter.
func (q *query) and(condition, name, value string) *query {
	q.where = append(q.where, condition)
	return q.bind(name, value)
}

// bind gives a parameter its value.
func (q *query) bind(name, value string) *query {
	q.parameters[name] = value
	return q
}

func (q *query) andInt(condition, name string, value int64) *query {
	return q.and(condition, name, strconv.FormatInt(value, 10))
}

// andText adds a condition on text of anybody's, which passes as hexadecimal.
func (q *query) andText(condition, name, text string) *query {
	return q.and(condition, name, hex.EncodeToString([]byte(text)))
}

func (q *query) then(format string, args ...any) *query {
	q.rest = fmt.Sprintf(format, args...)
	return q
}

func (q *query) sql(columns string) string {
	return "SELECT " + columns + " FROM " + q.table + " WHERE " + strings.Join(q.where, " AND ") + " " + q.rest
}

func (q *query) context(ctx context.Context) context.Context {
	return clickhouse.Context(ctx, clickhouse.WithParameters(q.parameters), clickhouse.WithSettings(q.settings))
}

// rows runs it and hands on each row; each stops it by false.
func (q *query) rows(ctx context.Context, columns string, each func(driver.Rows) (bool, error)) (err error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout+checkTimeout)
	defer cancel()
	rows, err := q.store.conn.Query(q.context(ctx), q.sql(columns))
	if err != nil {
		return err
	}
	// What is not read any more is not sent any more.
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		more, err := each(rows)
		if err != nil || !more {
			return err
		}
	}
	return rows.Err()
}

// one runs it for its only row.
func (q *query) one(ctx context.Context, columns string, into ...any) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout+checkTimeout)
	defer cancel()
	return q.store.conn.QueryRow(q.context(ctx), q.sql(columns)).Scan(into...)
}

// delete removes what the conditions name.
func (q *query) delete(ctx context.Context) error {
	delete(q.settings, "readonly")
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	return q.store.conn.Exec(q.context(ctx), "DELETE FROM "+q.table+" WHERE "+strings.Join(q.where, " AND "))
}
