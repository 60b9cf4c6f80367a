package store

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

// Sizes of the pool. PostgreSQL allows 100 connections by default, to be shared
// by the replicas.
const (
	postgresConnections = 20
	postgresIdle        = 8
)

// functions is what PostgreSQL needs before the migrations.
//
//go:embed postgres.sql
var functions string

// tuning keeps the dead rows at the head of the hot tables few: they, and not
// the commits, are what makes a queue in SQL slow.
const tuning = `
ALTER TABLE queue   SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE backlog SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE fence   SET (fillfactor = 10);
ALTER TABLE flows   SET (fillfactor = 50);
ALTER TABLE hosts   SET (fillfactor = 50);`

// setupLock is the advisory lock under which replicas that start at once
// prepare the database one after the other.
const setupLock = 0x6e696d627573 // "nimbus"

// postgresDialect is the engine of the scale profile. Transactions are read
// committed: each locks the rows of the jobs that it changes before it looks at
// them.
type postgresDialect struct{}

func openPostgres(ctx context.Context, dsn string) (*Store, error) {
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, errors.New("the postgres:// URL is not valid") // pgx's error repeats the password
	}
	db := stdlib.OpenDB(*cfg)
	db.SetMaxOpenConns(postgresConnections)
	db.SetMaxIdleConns(postgresIdle)
	db.SetConnMaxIdleTime(5 * time.Minute)
	if err := db.PingContext(ctx); err != nil {
		return nil, errors.Join(interpret(err), db.Close())
	}
	return &Store{writer: db, reader: db, dialect: postgresDialect{}}, nil
}

func (postgresDialect) migrations() (goose.Dialect, []goose.ProviderOption, error) {
	locker, err := lock.NewPostgresSessionLocker()
	return goose.DialectPostgres, []goose.ProviderOption{goose.WithSessionLocker(locker)}, err
}

func (postgresDialect) readIsolation() sql.IsolationLevel { return sql.LevelRepeatableRead }

func (postgresDialect) prepare(ctx context.Context, db *sql.DB) error {
	return underSetupLock(ctx, db, functions)
}

func (postgresDialect) tune(ctx context.Context, db *sql.DB) error {
	return underSetupLock(ctx, db, tuning)
}

// underSetupLock runs statements that are not safe to run by two at once.
func underSetupLock(ctx context.Context, db *sql.DB, statements string) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "SELECT pg_advisory_xact_lock($1)", setupLock); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	if _, err := tx.ExecContext(ctx, statements); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

func (postgresDialect) lockJob(ctx context.Context, tx *sql.Tx, jobID string) error {
	_, err := tx.ExecContext(ctx, "SELECT 1 FROM jobs WHERE id = $1 FOR UPDATE", jobID)
	return err
}

// claim locks the rows of jobs, not those of the queue: whoever moves a job
// holds its row first, and so the two can't wait for each other. The state is
// part of the condition because it is checked again on the locked row, which
// may be newer than the one that the join saw.
func (postgresDialect) claim(ctx context.Context, tx *sql.Tx, classIDs []string, n int) ([]string, error) {
	return texts(tx.QueryContext(ctx, `SELECT j.id FROM queue q JOIN jobs j ON j.id = q.job_id
		WHERE q.class_id = ANY($1) AND j.state = 'queued' ORDER BY q.fair_rank, q.job_id LIMIT $2
		FOR UPDATE OF j SKIP LOCKED`, classIDs, n))
}

func (postgresDialect) nextPending(ctx context.Context, tx *sql.Tx, classID, orgID, repoID string) (string, error) {
	return first(texts(tx.QueryContext(ctx, `SELECT j.id FROM backlog b JOIN jobs j ON j.id = b.job_id
		WHERE b.class_id = $1 AND b.org_id = $2 AND b.repo_id = $3 AND j.state = 'pending'
		ORDER BY b.job_id LIMIT 1 FOR UPDATE OF j SKIP LOCKED`, classID, orgID, repoID)))
}

func (postgresDialect) offsetClock(ctx context.Context, db *sql.DB, by time.Duration) error {
	_, err := db.ExecContext(ctx, `INSERT INTO nimbus_clock (one, offset_us) VALUES (TRUE, $1)
		ON CONFLICT (one) DO UPDATE SET offset_us = excluded.offset_us`, by.Microseconds())
	return err
}
