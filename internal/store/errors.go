package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

// SQLSTATE classes and codes of PostgreSQL that mean something to us.
const (
	pgUniqueViolation      = "23505"
	pgSerializationFailure = "40001"
	pgDeadlock             = "40P01"
	pgAdminShutdown        = "57P01"
	pgCrashShutdown        = "57P02"
	pgCannotConnectNow     = "57P03"
	pgTooManyConnections   = "53300"
	pgDiskFull             = "53100"
	pgConnectionClass      = "08"
	pgNotInEncoding        = "22021"
	pgInvalidPassword      = "28P01"
	pgInvalidAuthorization = "28000"
	pgNoDatabase           = "3D000"
)

// interpret translates an error of a driver at the edge: what callers can act
// on gets a code, everything else stays as it is and counts as internal.
func interpret(err error) error {
	var known *nimbus.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return &nimbus.Error{Code: nimbus.CodeNotFound, Message: "not found", Err: err}
	case isUnique(err):
		return &nimbus.Error{Code: nimbus.CodeConflict, Message: "it exists already", Err: err}
	case isNoText(err):
		return &nimbus.Error{Code: nimbus.CodeInvalid, Message: "a text holds a NUL character or is not valid UTF-8", Err: err}
	case errors.Is(err, context.Canceled):
		return &nimbus.Error{Code: nimbus.CodeCancelled, Message: "cancelled", Err: err}
	case isFull(err):
		return &nimbus.Error{Code: nimbus.CodeUnavailable, Message: "the disk of the server's database is full", Err: fmt.Errorf("%w: %w", syscall.ENOSPC, err),
			Hint: "whoever runs the server has to make room there, then the same call works"}
	case isUnavailable(err):
		return &nimbus.Error{Code: nimbus.CodeUnavailable, Message: "the database does not answer", Err: err}
	}
	return err
}

// lostRace tells whether a transaction failed only because of another one.
func lostRace(err error) bool {
	if errors.Is(err, scheduler.ErrRace) {
		return true
	}
	if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) {
		return pg.Code == pgSerializationFailure || pg.Code == pgDeadlock
	}
	code, ok := sqliteCode(err)
	return ok && (code == sqlite3.SQLITE_BUSY || code == sqlite3.SQLITE_LOCKED)
}

func isUnique(err error) bool {
	if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) {
		return pg.Code == pgUniqueViolation
	}
	var lite *sqlite.Error
	return errors.As(err, &lite) &&
		(lite.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || lite.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)
}

// isNoText tells that PostgreSQL was given what it can't keep as text. SQLite
// keeps all; what callers send is refused at the door for both.
func isNoText(err error) bool {
	pg := (*pgconn.PgError)(nil)
	return errors.As(err, &pg) && pg.Code == pgNotInEncoding
}

func isUnavailable(err error) bool {
	if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) {
		switch pg.Code {
		case pgAdminShutdown, pgCrashShutdown, pgCannotConnectNow, pgTooManyConnections:
			return true
		}
		return strings.HasPrefix(pg.Code, pgConnectionClass)
	}
	if connect := (*pgconn.ConnectError)(nil); errors.As(err, &connect) {
		return true
	}
	if netErr := net.Error(nil); errors.As(err, &netErr) {
		return true
	}
	return neverSent(err) || slices.ContainsFunc(
		[]error{context.DeadlineExceeded, io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, driver.ErrBadConn, sql.ErrConnDone},
		func(lost error) bool { return errors.Is(err, lost) })
}

// isFull tells that the database has no room left.
func isFull(err error) bool {
	if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) {
		return pg.Code == pgDiskFull
	}
	code, ok := sqliteCode(err)
	return ok && code == sqlite3.SQLITE_FULL
}

// neverSent tells whether a statement failed before the database heard of it:
// its connection was lost while nobody used it, and another one may do. What
// was under way in a transaction is undone with its connection.
func neverSent(err error) bool { return pgconn.SafeToRetry(err) }

// sqliteCode is the primary result code of an SQLite error.
func sqliteCode(err error) (int, bool) {
	var lite *sqlite.Error
	if !errors.As(err, &lite) {
		return 0, false
	}
	return lite.Code() & 0xff, true
}
