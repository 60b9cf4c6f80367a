package store

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// rollbackTimeout bounds the undoing of a transaction whose caller may be gone.
const rollbackTimeout = 5 * time.Second

// postgresTx is a transaction on a connection of its own. It is begun by hand
// because the clock is then read in the same round trip. A connection that
// comes back with a transaction still open is thrown away by the driver.
type postgresTx struct {
	*sql.Conn
	ctx    context.Context //nolint:containedctx // as sql.Tx does: the transaction lives as long
	commit string
}

// What ends a transaction; a relaxed one does not wait for the disk.
const (
	commit        = "COMMIT"
	commitRelaxed = "SET LOCAL synchronous_commit TO off; COMMIT"
)

func (postgresDialect) begin(ctx context.Context, conn *sql.Conn, m mode) (_ transaction, now int64, err error) {
	begin, end := "BEGIN; SELECT nimbus_now()", commit
	switch m {
	case writing:
	case relaxed:
		end = commitRelaxed
	case reading:
		begin = "BEGIN READ ONLY, ISOLATION LEVEL REPEATABLE READ; SELECT nimbus_now()"
	}
	err = onPostgres(conn, func(c *pgx.Conn) error {
		results, err := c.PgConn().Exec(ctx, begin).ReadAll()
		if err != nil {
			return err
		}
		if len(results) != 2 || len(results[1].Rows) != 1 || len(results[1].Rows[0]) != 1 {
			return fmt.Errorf("the clock gave %d results", len(results))
		}
		now, err = strconv.ParseInt(string(results[1].Rows[0][0]), 10, 64)
		return err
	})
	return postgresTx{conn, ctx, end}, now, err
}

// Commit implements transaction.
func (t postgresTx) Commit() error {
	return onPostgres(t.Conn, func(c *pgx.Conn) error {
		results, err := c.PgConn().Exec(t.ctx, t.commit).ReadAll()
		if err == nil && (len(results) == 0 || results[len(results)-1].CommandTag.String() != commit) {
			err = pgx.ErrTxCommitRollback
		}
		return err
	})
}

// Rollback implements transaction.
func (t postgresTx) Rollback() error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), rollbackTimeout)
	defer cancel()
	return onPostgres(t.Conn, func(c *pgx.Conn) error {
		if c.IsClosed() {
			return sql.ErrTxDone // it went with its connection
		}
		_, err := c.Exec(ctx, "ROLLBACK", pgx.QueryExecModeSimpleProtocol)
		return err
	})
}

// onPostgres runs f on the driver's own connection.
func onPostgres(conn *sql.Conn, f func(*pgx.Conn) error) error {
	return conn.Raw(func(driver any) error {
		c, ok := driver.(*stdlib.Conn)
		if !ok {
			return fmt.Errorf("a connection of type %T can't be used", driver)
		}
		return f(c.Conn())
	})
}
