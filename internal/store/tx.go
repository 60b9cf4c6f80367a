package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/leader"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// Bounds of repeating a transaction that lost a race against another. After
// the last try the caller gets unavailable, and may come back.
const (
	maxTries   = 12
	retryPause = 2 * time.Millisecond // grows with each try, with jitter
	// uniqueTries is how often a key that is there already is taken for a race.
	uniqueTries = 2
)

// tx is one transaction with its time.
type tx struct {
	*gen.Queries
	db      transaction
	conn    *sql.Conn // that db is on
	dialect dialect
	flushes *flushStatements
	seen    *seenFlows
	now     time.Time
}

// transaction is one that is under way.
type transaction interface {
	gen.DBTX
	Commit() error
	Rollback() error
}

// mode is what a transaction does.
type mode int

const (
	reading mode = iota
	writing
	relaxed // see writeRelaxed
)

// write runs f in a transaction that may change rows, and repeats it as a whole
// when it lost a race: f must have no effect outside the database. It commits
// when f returns nil. Work of a leader changes nothing once its term is over.
func (s *Store) write(ctx context.Context, f func(*tx) error) error {
	term, leads := leader.TermOf(ctx)
	if !leads {
		return s.writeUnproved(ctx, f)
	}
	return s.writeUnproved(ctx, func(t *tx) error {
		if err := t.prove(ctx, term); err != nil {
			return err
		}
		return f(t)
	})
}

// writeRelaxed is write that does not wait until the disk has it. All see it at
// once, and it survives the end of this process and of the database's; where the
// power fails before anything is written that does wait, it may be gone, but never
// without all that came after it. So it is for what means nothing until a later
// write, such as the blocks of an upload that was not committed.
func (s *Store) writeRelaxed(ctx context.Context, f func(*tx) error) error {
	return s.writeAs(ctx, relaxed, f)
}

// writeUnproved is write for the election itself.
func (s *Store) writeUnproved(ctx context.Context, f func(*tx) error) error {
	return s.writeAs(ctx, writing, f)
}

func (s *Store) writeAs(ctx context.Context, m mode, f func(*tx) error) (err error) {
	tries := 0
	defer s.observed(true, &tries, time.Now(), &err)
	for try := range maxTries {
		tries++
		err = s.transact(ctx, s.writer, m, f)
		// A row that somebody else added first is found when f looks again; if
		// f does not look, it is a conflict.
		again := lostRace(err) || neverSent(err) || isUnique(err) && try < uniqueTries
		if err == nil || !again {
			return interpret(err)
		}
		pause := time.Duration(try+1) * retryPause
		select {
		case <-ctx.Done():
			return interpret(ctx.Err())
		case <-time.After(pause/2 + rand.N(pause)):
		}
	}
	return &nimbus.Error{Code: nimbus.CodeUnavailable, Message: "the database is too busy", Err: err}
}

// read runs f on one consistent state of the database.
func (s *Store) read(ctx context.Context, f func(*tx) error) (err error) {
	tries := 0
	defer s.observed(false, &tries, time.Now(), &err)
	for range maxTries {
		tries++
		err = s.transact(ctx, s.reader, reading, f)
		if err == nil || !neverSent(err) || ctx.Err() != nil {
			break
		}
	}
	return interpret(err)
}

// observed tells of a transaction once it is over.
func (s *Store) observed(write bool, tries *int, began time.Time, err *error) {
	if s.observer != nil {
		s.observer.Transacted(write, *tries, time.Since(began), *err)
	}
}

func (s *Store) transact(ctx context.Context, db *sql.DB, m mode, f func(*tx) error) (err error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() { err = errors.Join(err, ignoreDone(conn.Close())) }() // gives it back
	under, now, err := s.dialect.begin(ctx, conn, m)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreDone(under.Rollback()))
		}
	}()
	if err := f(&tx{Queries: gen.New(under), db: under, conn: conn, dialect: s.dialect, flushes: s.flushes, seen: s.seen, now: fromMicros(now)}); err != nil {
		return err
	}
	if err := under.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// ignoreDone drops the complaint of a rollback after a failed commit, or on a
// connection that is lost.
func ignoreDone(err error) error {
	if errors.Is(err, sql.ErrTxDone) || errors.Is(err, sql.ErrConnDone) {
		return nil
	}
	return err
}

// micros is a time as the tables hold it; 0 for the zero time.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromMicros(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}
