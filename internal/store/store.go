// Package store keeps the books of Nimbus in SQL, on SQLite (one machine) or
// PostgreSQL (many replicas), behind one conformance suite (storetest).
//
// The queries are in queries/*.sql and are the same for both engines; sqlc makes
// gen/ of them. The few statements that differ are behind the type dialect. The
// tables are in migrations/, which only go forward.
//
// A room adds its own tables by a migration, its queries by a file in queries/,
// and its methods on *Store in a file of its own, written with read and write.
//
// Times are the database's: a transaction asks nimbus_now() once, and tests move
// it with OffsetClock.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// Config says which database to open.
type Config struct {
	// DSN is "sqlite:<path>" or a "postgres://…" URL.
	DSN string
	// Backups is a folder in which a SQLite database is kept before its tables
	// change; "" for none. PostgreSQL has its own ways.
	Backups string
	// AsIs refuses a database whose tables are not of this version, instead of
	// changing them: for a program beside the server.
	AsIs bool
	// Observer hears of transactions. Nil for nobody.
	Observer Observer
}

// Observer hears of transactions. Its methods return at once and may be called
// concurrently.
type Observer interface {
	// Transacted hears of one that is over: how often it was run, and how long
	// all of that took.
	Transacted(write bool, tries int, took time.Duration, err error)
}

// Store is an open database. All methods may be called concurrently. Errors
// that mean something to a caller are *nimbus.Error: conflict for a row that is
// there already, not_found, unavailable for a database that does not answer.
type Store struct {
	writer  *sql.DB // SQLite: one connection, so that writers queue here
	reader  *sql.DB // the same as writer on PostgreSQL
	dialect dialect
	flushes *flushStatements
	seen    *seenFlows

	observer Observer
}

// Open opens the database, creating it where the engine allows, and brings its
// tables up to date. Two processes may do so at once.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	scheme, rest, _ := strings.Cut(cfg.DSN, ":")
	var s *Store
	var err error
	switch scheme {
	case "sqlite":
		s, err = openSQLite(ctx, rest)
	case "postgres", "postgresql":
		s, err = openPostgres(ctx, cfg.DSN)
	default:
		// The DSN is not repeated: it may hold a password.
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "the database is neither sqlite:<path> nor postgres://…")
	}
	if err != nil {
		return nil, fmt.Errorf("open %s database: %w", scheme, err)
	}
	s.flushes, s.seen, s.observer = newFlushStatements(), &seenFlows{ids: map[string]struct{}{}}, cfg.Observer
	if scheme != "sqlite" {
		cfg.Backups = ""
	}
	if err := s.migrate(ctx, migrations, cfg); err != nil {
		return nil, errors.Join(fmt.Errorf("bring the tables up to date: %w", err), s.Close())
	}
	return s, nil
}

// Close waits for running statements and closes the database.
func (s *Store) Close() error {
	if s.reader == s.writer {
		return s.writer.Close()
	}
	// Readers first: the last connection of SQLite's writer folds the log in.
	return errors.Join(s.reader.Close(), s.writer.Close())
}

// Ping tells whether the database answers.
func (s *Store) Ping(ctx context.Context) error {
	return interpret(s.reader.PingContext(ctx))
}

// Now is the database's clock, which decides about leases.
func (s *Store) Now(ctx context.Context) (time.Time, error) {
	now, err := gen.New(s.reader).Now(ctx)
	return fromMicros(now), interpret(err)
}

// OffsetClock moves nimbus_now() against the real time, for tests.
func (s *Store) OffsetClock(ctx context.Context, by time.Duration) error {
	return interpret(s.dialect.offsetClock(ctx, s.writer, by))
}

// dialect is what the engines do differently.
type dialect interface {
	// migrations says how goose runs them here.
	migrations() (goose.Dialect, []goose.ProviderOption, error)
	// prepare and tune run at each start, before and after the migrations.
	prepare(ctx context.Context, db *sql.DB) error
	tune(ctx context.Context, db *sql.DB) error
	// begin begins a transaction, and reads the clock in it. One that only reads
	// has one state of the database for all that it reads.
	begin(ctx context.Context, conn *sql.Conn, m mode) (t transaction, now int64, err error)
	// arrays tells whether a statement takes many rows as arrays.
	arrays() bool
	// list makes an argument of a list of keys: in is the condition that a
	// column has one of them, values is a query of all of them. param is the
	// argument's place, kind the type of the keys.
	list(keys any) (any, error)
	in(column string, param int) string
	values(param int, kind string) string
	// inRows is the condition that a column has one of the values of a query.
	inRows(column, query string) string
	// run runs the steps of a pipeline.
	run(ctx context.Context, t *tx, steps []step) error
	// forUpdate makes others wait for this transaction before they change the
	// rows that a query returns.
	forUpdate() string
	// forShare lets others read the row, and makes them wait before they change it.
	forShare() string
	// claim locks and returns the first n queued jobs of each of the classes.
	// Jobs that others have locked are passed over.
	claim(classIDs []string, n int) (statement, error)
	// nextPending locks and returns the oldest jobs of each flow in the backlog,
	// behind one of its jobs, that are not locked; of each so many.
	nextPending(ctx context.Context, t *tx, classID string, from []scheduler.Behind, most []int64) ([]gen.Job, error)
	// queuedOf locks and reads the queued jobs of an org, by rank, but for those
	// that another transaction holds.
	queuedOf(ctx context.Context, t *tx, orgID string, n int) (*sql.Rows, error)
	// renew moves the end of leases that have not expired.
	renew(ctx context.Context, t *tx, leases []scheduler.HeldLease, until int64) ([]scheduler.Renewal, error)
	offsetClock(ctx context.Context, db *sql.DB, by time.Duration) error
}
