package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/nimbus-ci/nimbus"
)

// TestAFullDatabaseIsUnavailable: it may have room again, and says what is amiss.
func TestAFullDatabaseIsUnavailable(t *testing.T) {
	t.Parallel()
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	_, err = db.ExecContext(t.Context(), "PRAGMA max_page_count = 4; CREATE TABLE t (b BLOB); INSERT INTO t VALUES (zeroblob(1 << 20))")
	if full := interpret(err); nimbus.ErrorCode(full) != nimbus.CodeUnavailable || !strings.Contains(full.Error(), "is full") || nimbus.ErrorHint(full) == "" {
		t.Errorf("it is %v, of %v", full, err)
	}
}

// closedError is what pgx says of a connection that went away while it was in
// the pool.
type closedError struct{}

func (closedError) Error() string     { return "conn closed" }
func (closedError) SafeToRetry() bool { return true }

// TestALostDatabaseIsUnavailable: whoever hears of it may come back. It was
// once an internal error, at which scripts give up.
func TestALostDatabaseIsUnavailable(t *testing.T) {
	t.Parallel()
	for _, lost := range []error{
		closedError{}, io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, driver.ErrBadConn, sql.ErrConnDone, context.DeadlineExceeded,
		&net.OpError{Op: "read", Err: errors.New("connection reset by peer")},
		&pgconn.PgError{Code: "57P01"}, &pgconn.PgError{Code: "57P02"}, &pgconn.PgError{Code: "57P03"}, &pgconn.PgError{Code: "08006"},
	} {
		if got := nimbus.ErrorCode(interpret(fmt.Errorf("begin: %w", lost))); got != nimbus.CodeUnavailable {
			t.Errorf("%T %v is %s", lost, lost, got)
		}
	}
	if full := interpret(&pgconn.PgError{Code: "53100"}); nimbus.ErrorCode(full) != nimbus.CodeUnavailable || !strings.Contains(full.Error(), "is full") {
		t.Errorf("a full disk is %v", full)
	}
	if got := nimbus.ErrorCode(interpret(&pgconn.PgError{Code: "22021"})); got != nimbus.CodeInvalid {
		t.Errorf("a NUL is %s", got)
	}
	for _, fault := range []error{errors.New("no"), &pgconn.PgError{Code: "42601"}, &pgconn.PgError{Code: "22001"}} {
		if got := nimbus.ErrorCode(interpret(fault)); got != nimbus.CodeInternal {
			t.Errorf("%v is %s", fault, got)
		}
	}
}
