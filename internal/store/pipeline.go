package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

// pipeline is steps of a transaction that need none of each other's answers.
// PostgreSQL gets all of them in one round trip: between two processes of one
// machine that costs as much as the statement, between two machines many times
// that, and the rows that the transaction has locked wait for it. SQLite, which
// has no round trips, runs them one after the other.
type pipeline struct {
	tx    *tx
	steps []step
	err   error // of what was to be added
}

// step is one statement, or the same for each row of several.
type step struct {
	what string
	runs []statement
	each func(scan scanner) error // takes a row of a query; nil for a command
	// exactly is how many rows have to be changed, or another transaction was
	// first; anyNumber where that is not known.
	exactly int64
}

// statement is one with its arguments.
type statement struct {
	text string
	args []any
}

const anyNumber = -1

// scanner reads a row of a result.
type scanner interface {
	Scan(into ...any) error
}

// query adds a statement whose rows each takes.
func (p *pipeline) query(what, text string, each func(scanner) error, args ...any) {
	p.steps = append(p.steps, step{what: what, runs: []statement{{text, args}}, each: each, exactly: anyNumber})
}

// write adds a bulk statement, if there are rows for it.
func (p *pipeline) write(what string, b bulk, rows [][]any) { p.writeExactly(what, b, rows, anyNumber) }

// exact is write for rows that must all be changed: one that is not was changed
// by somebody else first.
func (p *pipeline) exact(what string, b bulk, rows [][]any) {
	p.writeExactly(what, b, rows, int64(len(rows)))
}

func (p *pipeline) writeExactly(what string, b bulk, rows [][]any, exactly int64) {
	if len(rows) > 0 {
		p.steps = append(p.steps, step{what: what, runs: b.statements(p.tx.dialect, rows), exactly: exactly})
	}
}

// run runs the steps in their order, up to the first that fails.
func (p *pipeline) run(ctx context.Context) error {
	if p.err != nil || len(p.steps) == 0 {
		return p.err
	}
	return p.tx.dialect.run(ctx, p.tx, p.steps)
}

// done judges a step by the rows that it changed.
func (s *step) done(changed int64, err error) error {
	if err == nil && s.exactly != anyNumber && changed != s.exactly {
		err = scheduler.ErrRace
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s.what, err)
	}
	return nil
}

func (postgresDialect) run(ctx context.Context, t *tx, steps []step) error {
	return onPostgres(t.conn, func(conn *pgx.Conn) (err error) {
		var batch pgx.Batch
		for i := range steps {
			for _, s := range steps[i].runs {
				batch.Queue(s.text, s.args...)
			}
		}
		answers := conn.SendBatch(ctx, &batch)
		defer func() {
			if closed := answers.Close(); err == nil {
				err = closed
			}
		}()
		for i := range steps {
			changed, err := steps[i].take(answers)
			if err := steps[i].done(changed, err); err != nil {
				return err
			}
		}
		return nil
	})
}

// take reads the answers to a step.
func (s *step) take(answers pgx.BatchResults) (changed int64, err error) {
	for range s.runs {
		if s.each == nil {
			tag, err := answers.Exec()
			if err != nil {
				return changed, err
			}
			changed += tag.RowsAffected()
			continue
		}
		rows, err := answers.Query()
		if err != nil {
			return changed, err
		}
		for rows.Next() && err == nil {
			err = s.each(rows)
		}
		rows.Close()
		if err := errors.Join(err, rows.Err()); err != nil {
			return changed, err
		}
	}
	return changed, nil
}

func (*sqliteDialect) run(ctx context.Context, t *tx, steps []step) error {
	for i := range steps {
		var all int64
		for _, s := range steps[i].runs {
			changed, err := steps[i].runAlone(ctx, t.db, s)
			if err != nil {
				return steps[i].done(all, err)
			}
			all += changed
		}
		if err := steps[i].done(all, nil); err != nil {
			return err
		}
	}
	return nil
}

func (s *step) runAlone(ctx context.Context, db transaction, one statement) (int64, error) {
	if s.each == nil {
		return affected(db.ExecContext(ctx, one.text, one.args...))
	}
	rows, err := db.QueryContext(ctx, one.text, one.args...)
	_, err = scanAll(rows, err, func(r scanner, _ *struct{}) error { return s.each(r) })
	return 0, err
}
