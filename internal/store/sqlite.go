package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"

	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

const (
	// sqliteReaders is the size of the pool for reads, which run beside the writer.
	sqliteReaders = 4
	// sqliteWait is how long is waited for what another process has locked.
	sqliteWait = 10 * time.Second
)

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
	shared := url.Values{"_pragma": {fmt.Sprintf("busy_timeout(%d)", sqliteWait.Milliseconds()), "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)"}}
	writer := openDB(drv, path, shared, url.Values{"_txlock": {"immediate"}})
	writer.SetMaxOpenConns(1)
	reader := openDB(drv, path, shared, url.Values{"_pragma": {"query_only(1)"}})
	reader.SetMaxOpenConns(sqliteReaders)
	reader.SetMaxIdleConns(sqliteReaders)
	if err := connectSQLite(ctx, writer); err != nil {
		return nil, errors.Join(err, reader.Close(), writer.Close())
	}
	return &Store{writer: writer, reader: reader, dialect: d}, nil
}

// connectSQLite makes the writer's connection. Of those who give a new file its journal_mode
// at once SQLite tells all but one that it is locked, without the wait that they ask for.
func connectSQLite(ctx context.Context, writer *sql.DB) error {
	for began := time.Now(); ; {
		err := writer.PingContext(ctx)
		if err == nil || !lostRace(err) || time.Since(began) > sqliteWait {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(retryPause/2 + rand.N(retryPause)):
		}
	}
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

func (c connector) Connect(context.Context) (driver.Conn, error) {
	conn, err := c.driver.Open(c.dsn)
	if err != nil {
		return nil, err
	}
	return newCompiledConn(conn)
}

func (c connector) Driver() driver.Driver { return c.driver }

func (*sqliteDialect) migrations() (goose.Dialect, []goose.ProviderOption, error) {
	return goose.DialectSQLite3, nil, nil
}

func (*sqliteDialect) begin(ctx context.Context, conn *sql.Conn, m mode) (_ transaction, now int64, err error) {
	if m == relaxed {
		// It can't be said of one transaction: the connection's next one waits again.
		if _, err := conn.ExecContext(ctx, "PRAGMA synchronous=NORMAL"); err != nil {
			return nil, 0, err
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, tightened(conn))
			}
		}()
	}
	t, err := conn.BeginTx(ctx, &sql.TxOptions{ReadOnly: m == reading})
	if err != nil {
		return nil, 0, err
	}
	if now, err = gen.New(t).Now(ctx); err != nil {
		return nil, 0, errors.Join(err, t.Rollback())
	}
	if m == relaxed {
		return relaxedTx{t, conn}, now, nil
	}
	return t, now, nil
}

// relaxedTx is a transaction that does not wait for the disk.
type relaxedTx struct {
	*sql.Tx
	conn *sql.Conn
}

// Commit implements transaction.
func (t relaxedTx) Commit() error { return errors.Join(t.Tx.Commit(), tightened(t.conn)) }

// Rollback implements transaction.
func (t relaxedTx) Rollback() error { return errors.Join(t.Tx.Rollback(), tightened(t.conn)) }

// tightened has a connection wait for the disk again, or throws it away.
func tightened(conn *sql.Conn) error {
	_, err := conn.ExecContext(context.Background(), "PRAGMA synchronous=FULL")
	if err != nil {
		_ = conn.Raw(func(any) error { return driver.ErrBadConn }) // that is how it is thrown away
	}
	return err
}

// prepare has nothing to do: the function is registered with the driver.
func (*sqliteDialect) prepare(context.Context, *sql.DB) error { return nil }

// sqliteAppendOnly refuses changes to the audit ledger. Whoever has the file
// can make them all the same; then the hashes tell.
const sqliteAppendOnly = `
CREATE TRIGGER IF NOT EXISTS audit_ledger_update BEFORE UPDATE ON audit_ledger BEGIN SELECT RAISE(ABORT, 'the table audit_ledger is only added to'); END;
CREATE TRIGGER IF NOT EXISTS audit_ledger_delete BEFORE DELETE ON audit_ledger BEGIN SELECT RAISE(ABORT, 'the table audit_ledger is only added to'); END;
CREATE TRIGGER IF NOT EXISTS audit_checkpoints_update BEFORE UPDATE ON audit_checkpoints BEGIN SELECT RAISE(ABORT, 'the table audit_checkpoints is only added to'); END;
CREATE TRIGGER IF NOT EXISTS audit_checkpoints_delete BEFORE DELETE ON audit_checkpoints BEGIN SELECT RAISE(ABORT, 'the table audit_checkpoints is only added to'); END;`

func (*sqliteDialect) tune(ctx context.Context, db *sql.DB) error {
	_, err := db.ExecContext(ctx, sqliteAppendOnly)
	return err
}

func (*sqliteDialect) arrays() bool { return false }

func (*sqliteDialect) list(keys any) (any, error) {
	b, err := json.Marshal(keys)
	return string(b), err
}

func (d *sqliteDialect) in(column string, param int) string {
	return d.inRows(column, d.values(param, ""))
}

func (*sqliteDialect) values(param int, _ string) string {
	return fmt.Sprintf("SELECT value FROM json_each($%d)", param)
}

func (*sqliteDialect) inRows(column, query string) string { return column + " IN (" + query + ")" }

// forUpdate is nothing: the transaction holds the only write lock.
func (*sqliteDialect) forUpdate() string { return "" }

func (*sqliteDialect) forShare() string { return "" }

func (*sqliteDialect) claim(classIDs []string, n int) (statement, error) {
	list, err := json.Marshal(classIDs)
	return statement{"SELECT " + qualified("j", jobColumns) + ` FROM (
			SELECT job_id, fair_rank, ROW_NUMBER() OVER (PARTITION BY class_id ORDER BY fair_rank, job_id) AS place
			FROM queue WHERE class_id IN (SELECT value FROM json_each($1))) AS q
		JOIN jobs j ON j.id = q.job_id WHERE q.place <= $2 ORDER BY q.fair_rank, q.job_id`, []any{string(list), n}}, err
}

func (*sqliteDialect) nextPending(ctx context.Context, t *tx, classID string, from []scheduler.Behind, most []int64) (out []gen.Job, err error) {
	for i, f := range from {
		rows, err := t.db.QueryContext(ctx, "SELECT "+qualified("j", jobColumns)+` FROM backlog b JOIN jobs j ON j.id = b.job_id
			WHERE b.class_id = $1 AND b.org_id = $2 AND b.priority = $3 AND b.repo_id = $4 AND b.job_id > $5
			ORDER BY b.job_id LIMIT $6`, classID, f.OrgID, f.Priority, f.RepoID, f.JobID, most[i])
		jobs, err := scanAll(rows, err, scanJob)
		if err != nil {
			return nil, err
		}
		out = append(out, jobs...)
	}
	return out, nil
}

func (*sqliteDialect) queuedOf(ctx context.Context, t *tx, orgID string, n int) (*sql.Rows, error) {
	return t.db.QueryContext(ctx, "SELECT "+qualified("j", jobColumns)+` FROM queue q JOIN jobs j ON j.id = q.job_id
		WHERE q.org_id = $1 ORDER BY q.fair_rank, q.job_id LIMIT $2`, orgID, n)
}

func (*sqliteDialect) renew(ctx context.Context, t *tx, leases []scheduler.HeldLease, until int64) (renewed []scheduler.Renewal, err error) {
	for _, l := range leases {
		rows, err := t.db.QueryContext(ctx, `UPDATE attempts SET version = version + 1, expires_at = $4
			WHERE id = $1 AND host_id = $2 AND fence = $3 AND state = 'live' AND expires_at > $5
			RETURNING id, host_id, fence, job_id, stop_at`, l.AttemptID, l.HostID, l.Fence, until, micros(t.now))
		one, err := scanAll(rows, err, scanRenewal)
		if err != nil {
			return nil, err
		}
		renewed = append(renewed, one...)
	}
	return renewed, nil
}

func (d *sqliteDialect) offsetClock(_ context.Context, _ *sql.DB, by time.Duration) error {
	d.offset.Store(by.Microseconds())
	return nil
}
