package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
)

// sqliteReaders is the size of the pool for reads, which run beside the writer.
const sqliteReaders = 4

// sqliteDialect is the engine of the embedded profile. Its transactions begin
// with the write lock, so that nothing in them can be overtaken.
type sqliteDialect struct {
	offset atomic.Int64 // of the clock, microseconds
}

// openSQLite opens the file at path, creating it.
func openSQLite(ctx context.Context, path string) (*Store, error) {
	d := &sqliteDialect{}
	drv := &sqlite.Driver{}
	err := drv.RegisterScalarFunction("nimbus_now", 0, func(*sqlite.FunctionContext, []driver.Value) (driver.Value, error) {
		return time.Now().UnixMicro() + d.offset.Load(), nil
	})
	if err != nil {
		return nil, err
	}
	// synchronous FULL: in WAL mode NORMAL loses the last transactions when the
	// power fails, and what was acknowledged must not be lost.
	shared := url.Values{"_pragma": {"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)"}}
	writer := openDB(drv, path, shared, url.Values{"_txlock": {"immediate"}})
	writer.SetMaxOpenConns(1)
	reader := openDB(drv, path, shared, url.Values{"_pragma": {"query_only(1)"}})
	reader.SetMaxOpenConns(sqliteReaders)
	reader.SetMaxIdleConns(sqliteReaders)
	if err := writer.PingContext(ctx); err != nil {
		return nil, errors.Join(err, reader.Close(), writer.Close())
	}
	return &Store{writer: writer, reader: reader, dialect: d}, nil
}

func openDB(drv driver.Driver, path string, settings ...url.Values) *sql.DB {
	all := url.Values{}
	for _, values := range settings {
		for key, v := range values {
			all[key] = append(all[key], v...)
		}
	}
	return sql.OpenDB(connector{drv, "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + all.Encode()})
}

// connector opens connections by a driver that is registered nowhere.
type connector struct {
	driver driver.Driver
	dsn    string
}

func (c connector) Connect(context.Context) (driver.Conn, error) { return c.driver.Open(c.dsn) }

func (c connector) Driver() driver.Driver { return c.driver }

func (*sqliteDialect) migrations() (goose.Dialect, []goose.ProviderOption, error) {
	return goose.DialectSQLite3, nil, nil
}

func (*sqliteDialect) readIsolation() sql.IsolationLevel { return sql.LevelDefault }

// prepare has nothing to do: the function is registered with the driver.
func (*sqliteDialect) prepare(context.Context, *sql.DB) error { return nil }

// tune has nothing to do: there is no vacuum to hold back.
func (*sqliteDialect) tune(context.Context, *sql.DB) error { return nil }

// lockJob has nothing to do: the transaction holds the only write lock.
func (*sqliteDialect) lockJob(context.Context, *sql.Tx, string) error { return nil }

func (*sqliteDialect) claim(ctx context.Context, tx *sql.Tx, classIDs []string, n int) ([]string, error) {
	list, err := json.Marshal(classIDs)
	if err != nil {
		return nil, err
	}
	return texts(tx.QueryContext(ctx, `SELECT job_id FROM queue
		WHERE class_id IN (SELECT value FROM json_each($1)) ORDER BY fair_rank, job_id LIMIT $2`, string(list), n))
}

func (*sqliteDialect) nextPending(ctx context.Context, tx *sql.Tx, classID, orgID, repoID string) (string, error) {
	return first(texts(tx.QueryContext(ctx, `SELECT job_id FROM backlog
		WHERE class_id = $1 AND org_id = $2 AND repo_id = $3 ORDER BY job_id LIMIT 1`, classID, orgID, repoID)))
}

func (d *sqliteDialect) offsetClock(_ context.Context, _ *sql.DB, by time.Duration) error {
	d.offset.Store(by.Microseconds())
	return nil
}

// texts reads a result of one text column.
func texts(rows *sql.Rows, err error) (out []string, _ error) {
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, errors.Join(err, rows.Close())
		}
		out = append(out, s)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read rows: %w", err)
	}
	return out, rows.Close()
}

// first is the first text, or "".
func first(all []string, err error) (string, error) {
	if err != nil || len(all) == 0 {
		return "", err
	}
	return all[0], nil
}
