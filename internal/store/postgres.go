package store

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// Sizes of the pool. PostgreSQL allows 100 connections by default, to be shared
// by the replicas.
const (
	postgresConnections = 20
	postgresIdle        = 20
)

// connectTimeout bounds the first try to reach the database, where the URL has
// no shorter one.
const connectTimeout = 15 * time.Second

// functions is what PostgreSQL needs before the migrations.
//
//go:embed postgres.sql
var functions string

// tuning keeps the dead rows at the head of the hot tables few: they, and not
// the commits, are what makes a queue in SQL slow.
const tuning = `
ALTER TABLE queue   SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE backlog SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE deadlines SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE stuck   SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE jobs    SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE attempts SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE fence   SET (fillfactor = 10);
ALTER TABLE flows   SET (fillfactor = 50);
ALTER TABLE hosts   SET (fillfactor = 50);`

// appendOnly refuses changes to the audit ledger. Whoever may drop triggers can
// do it all the same; then the hashes tell.
const appendOnly = `
CREATE OR REPLACE FUNCTION nimbus_append_only() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'the table % is only added to', TG_TABLE_NAME; END $$;
DO $$ DECLARE name TEXT; BEGIN
    FOREACH name IN ARRAY ARRAY['audit_ledger', 'audit_checkpoints'] LOOP
        IF NOT EXISTS (SELECT 1 FROM pg_trigger WHERE tgrelid = name::regclass AND tgname = 'append_only') THEN
            EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON %I EXECUTE FUNCTION nimbus_append_only()', name);
        END IF;
    END LOOP;
END $$;`

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
	db := stdlib.OpenDB(*cfg, stdlib.OptionAfterConnect(planByIndex))
	db.SetMaxOpenConns(postgresConnections)
	db.SetMaxIdleConns(postgresIdle)
	db.SetConnMaxIdleTime(5 * time.Minute)
	bounded, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if err := db.PingContext(bounded); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, errors.Join(notOpened(cfg, err), db.Close())
	}
	return &Store{writer: db, reader: db, dialect: postgresDialect{}}, nil
}

// notOpened tells why a database can't be opened, and what to do. Only what is
// unavailable may be there later.
func notOpened(cfg *pgx.ConnConfig, err error) error {
	at := net.JoinHostPort(cfg.Host, strconv.Itoa(int(cfg.Port)))
	var refused *pgconn.PgError
	switch {
	case !errors.As(err, &refused):
	case refused.Code == pgInvalidPassword, refused.Code == pgInvalidAuthorization:
		return (&nimbus.Error{Code: nimbus.CodeInvalid, Message: fmt.Sprintf("PostgreSQL at %s does not let the user %q in", at, cfg.User), Err: err}).
			WithHint("look at the user and the password in the URL, and at PostgreSQL's pg_hba.conf")
	case refused.Code == pgNoDatabase:
		return (&nimbus.Error{Code: nimbus.CodeInvalid, Message: fmt.Sprintf("PostgreSQL at %s has no database %q", at, cfg.Database), Err: err}).
			WithHint("make it, with `createdb %s`, or name another one in the URL", cfg.Database)
	}
	if err = interpret(err); nimbus.ErrorCode(err) == nimbus.CodeUnavailable {
		return (&nimbus.Error{Code: nimbus.CodeUnavailable, Message: fmt.Sprintf("PostgreSQL at %s does not answer", at), Err: err}).
			WithHint("is it running, and can this machine reach it? The address is the one in the URL")
	}
	return err
}

// planByIndex keeps a connection from plans that were good for an empty table. Every
// statement here reads by an index, but while a table is new the planner takes
// it for small and reads all of it, and a prepared statement keeps such a plan
// until the table is analysed, tens of thousands of rows later.
func planByIndex(ctx context.Context, c *pgx.Conn) error {
	_, err := c.Exec(ctx, "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off")
	return err
}

func (postgresDialect) migrations() (goose.Dialect, []goose.ProviderOption, error) {
	locker, err := lock.NewPostgresSessionLocker()
	return goose.DialectPostgres, []goose.ProviderOption{goose.WithSessionLocker(locker)}, err
}

func (postgresDialect) prepare(ctx context.Context, db *sql.DB) error {
	return underSetupLock(ctx, db, functions)
}

func (postgresDialect) tune(ctx context.Context, db *sql.DB) error {
	return underSetupLock(ctx, db, tuning+appendOnly)
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

func (postgresDialect) arrays() bool { return true }

func (postgresDialect) list(keys any) (any, error) { return keys, nil }

func (postgresDialect) in(column string, param int) string {
	return fmt.Sprintf("%s = ANY($%d)", column, param)
}

func (postgresDialect) values(param int, kind string) string {
	return fmt.Sprintf("SELECT unnest($%d::%s[])", param, kind)
}

func (postgresDialect) inRows(column, query string) string {
	return column + " = ANY(ARRAY(" + query + "))"
}

func (postgresDialect) forUpdate() string { return " FOR UPDATE" }

func (postgresDialect) forShare() string { return " FOR SHARE" }

// claim locks the rows of jobs, not those of the queue: whoever moves a job
// holds its row first, and so the two can't wait for each other. The state is
// part of the condition because it is checked again on the locked row, which
// may be newer than the one that the join saw.
func (postgresDialect) claim(classIDs []string, n int) (statement, error) {
	return statement{"SELECT " + qualified("top", jobColumns) + " FROM unnest($1::text[]) AS c (class_id) CROSS JOIN LATERAL (SELECT " +
		qualified("j", jobColumns) + ` FROM queue q JOIN jobs j ON j.id = q.job_id
		WHERE q.class_id = c.class_id AND j.state = 'queued' ORDER BY q.fair_rank, q.job_id LIMIT $2
		FOR UPDATE OF j SKIP LOCKED) AS top`, []any{classIDs, n}}, nil
}

func (postgresDialect) nextPending(ctx context.Context, t *tx, classID string, from []scheduler.Behind, most []int64) ([]gen.Job, error) {
	orgs, repos, behind, priorities := make([]string, len(from)), make([]string, len(from)), make([]string, len(from)), make([]int64, len(from))
	for i, f := range from {
		orgs[i], repos[i], behind[i], priorities[i] = f.OrgID, f.RepoID, f.JobID, int64(f.Priority)
	}
	rows, err := t.db.QueryContext(ctx, "SELECT "+qualified("next", jobColumns)+` FROM unnest($2::text[], $3::bigint[], $4::text[], $5::text[], $6::bigint[])
		AS f (org_id, priority, repo_id, behind, most) CROSS JOIN LATERAL (SELECT `+qualified("j", jobColumns)+` FROM backlog b JOIN jobs j ON j.id = b.job_id
		WHERE b.class_id = $1 AND b.org_id = f.org_id AND b.priority = f.priority AND b.repo_id = f.repo_id AND b.job_id > f.behind
		AND j.state = 'pending' ORDER BY b.job_id LIMIT f.most FOR UPDATE OF j SKIP LOCKED) AS next`, classID, orgs, priorities, repos, behind, most)
	return scanAll(rows, err, scanJob)
}

func (postgresDialect) queuedOf(ctx context.Context, t *tx, orgID string, n int) (*sql.Rows, error) {
	return t.db.QueryContext(ctx, "SELECT "+qualified("j", jobColumns)+` FROM queue q JOIN jobs j ON j.id = q.job_id
		WHERE q.org_id = $1 ORDER BY q.fair_rank, q.job_id LIMIT $2 FOR UPDATE OF j SKIP LOCKED`, orgID, n)
}

func (postgresDialect) renew(ctx context.Context, t *tx, leases []scheduler.HeldLease, until int64) ([]scheduler.Renewal, error) {
	ids, hosts, fences := make([]string, len(leases)), make([]string, len(leases)), make([]int64, len(leases))
	for i, l := range leases {
		ids[i], hosts[i], fences[i] = l.AttemptID, l.HostID, l.Fence
	}
	rows, err := t.db.QueryContext(ctx, `WITH held AS (
			SELECT a.id FROM attempts a JOIN unnest($1::text[], $2::text[], $3::bigint[]) AS v (id, host_id, fence)
			  ON a.id = v.id AND a.host_id = v.host_id AND a.fence = v.fence
			WHERE a.state = 'live' AND a.expires_at > $5 ORDER BY a.id FOR UPDATE OF a)
		UPDATE attempts SET version = version + 1, expires_at = $4 FROM held
		WHERE attempts.id = held.id AND attempts.state = 'live' AND attempts.expires_at > $5
		RETURNING attempts.id, attempts.host_id, attempts.fence, attempts.job_id, attempts.stop_at`, ids, hosts, fences, until, micros(t.now))
	return scanAll(rows, err, scanRenewal)
}

// qualified puts an alias before each name of a list.
func qualified(alias, list string) string {
	return alias + "." + strings.ReplaceAll(list, ", ", ", "+alias+".")
}

func (postgresDialect) offsetClock(ctx context.Context, db *sql.DB, by time.Duration) error {
	_, err := db.ExecContext(ctx, `INSERT INTO nimbus_clock (one, offset_us) VALUES (TRUE, $1)
		ON CONFLICT (one) DO UPDATE SET offset_us = excluded.offset_us`, by.Microseconds())
	return err
}
