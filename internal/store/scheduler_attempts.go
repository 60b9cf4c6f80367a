package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// Attempt implements scheduler.Reader.
func (t schedulerTx) Attempt(ctx context.Context, attemptID string) (*scheduler.Attempt, error) {
	if t.books != nil {
		if e, known := t.books.attempts[attemptID]; known {
			if e == nil {
				return nil, interpret(sql.ErrNoRows)
			}
			copied := e.now
			return &copied, nil
		}
	}
	row, err := t.tx.Attempt(ctx, attemptID)
	if err != nil {
		return nil, interpret(err)
	}
	// What the lock of its job guards can be kept.
	if t.held(row.JobID) != nil {
		if err := t.holdAttempt(row); err != nil {
			return nil, err
		}
	}
	return attempt(row)
}

// OpenAttempts implements scheduler.Reader.
func (t schedulerTx) OpenAttempts(ctx context.Context, hostIDs []string) ([]*scheduler.Attempt, error) {
	if err := t.settled(ctx); err != nil {
		return nil, err
	}
	if len(hostIDs) == 0 {
		return nil, nil
	}
	rows, err := t.query(ctx, "SELECT "+attemptColumns+" FROM attempts", "host_id", hostIDs, " AND state IN ('offered', 'live') ORDER BY id")
	open, err := scanAll(rows, err, scanAttempt)
	if err != nil {
		return nil, fmt.Errorf("read open attempts: %w", err)
	}
	out := make([]*scheduler.Attempt, len(open))
	for i, r := range open {
		if out[i], err = attempt(r); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Told implements scheduler.Reader.
func (t schedulerTx) Told(ctx context.Context, hostIDs []string) ([]scheduler.Told, error) {
	if len(hostIDs) == 0 {
		return nil, nil
	}
	arg, err := t.tx.dialect.list(hostIDs)
	if err != nil {
		return nil, err
	}
	rows, err := t.tx.db.QueryContext(ctx, `SELECT a.id, a.fence, a.host_id, a.job_id, a.state, j.class FROM attempts a JOIN jobs j ON j.id = a.job_id
		WHERE `+t.tx.dialect.in("a.host_id", 1)+` AND a.state IN ('offered', 'live') AND
		(a.state = 'offered' AND a.expires_at > $2 OR a.state = 'live' AND a.stop_at > 0 AND a.stop_at <= $2)
		UNION ALL SELECT attempt_id, 0, host_id, id, '`+toldShell+`', '' FROM shells WHERE state = 'waiting' AND `+t.tx.dialect.in("host_id", 1)+`
		ORDER BY 1`, arg, t.nowMicros())
	return scanAll(rows, err, scanTold)
}

// toldShell stands for the state of an attempt in which a shell waits; its id is
// where that of a job is.
const toldShell = "shell"

// WaitingShells implements scheduler.Reader.
func (t schedulerTx) WaitingShells(ctx context.Context, most int) (map[string][]scheduler.ShellCall, error) {
	rows, err := t.tx.WaitingShells(ctx, int32(most))
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	out := map[string][]scheduler.ShellCall{}
	for _, r := range rows {
		out[r.HostID] = append(out[r.HostID], scheduler.ShellCall{ShellID: r.ID, AttemptID: r.AttemptID})
	}
	return out, nil
}

func scanTold(rows scanner, to *scheduler.Told) error {
	var id, job, state, class string
	var fence int64
	if err := rows.Scan(&id, &fence, &to.HostID, &job, &state, &class); err != nil {
		return err
	}
	to.Cancel = scheduler.AttemptState(state) == scheduler.AttemptLive
	to.Offer.Lease = nimbus.Lease{AttemptID: id, Fence: fence}
	if state == toldShell {
		to.Shell = job
	}
	if to.Cancel || to.Shell != "" {
		return nil
	}
	to.Offer.JobID = job
	return json.Unmarshal([]byte(class), &to.Offer.Class)
}

// InsertAttempt implements scheduler.Tx.
func (t schedulerTx) InsertAttempt(_ context.Context, a *scheduler.Attempt) error {
	t.books.attempts[a.AttemptID] = &attemptEntry{now: *a, logTotal: noTotal, inserted: true}
	t.books.touch()
	return nil
}

// noTotal is the number of lines of a log whose end nobody has told yet.
const noTotal = -1

// SaveAttempt implements scheduler.Tx.
func (t schedulerTx) SaveAttempt(ctx context.Context, a *scheduler.Attempt) error {
	e, err := t.attempt(ctx, a.AttemptID)
	if err != nil {
		return err
	}
	if e.now.Version != a.Version {
		return fmt.Errorf("attempt %s changed since it was read: %w", a.AttemptID, scheduler.ErrRace)
	}
	a.Version++
	e.now, e.changed = *a, true
	t.books.touch()
	return nil
}

// attempt is what the transaction has of an attempt. One that was read before
// its job was locked is read again; the version tells whether it is the same.
func (t schedulerTx) attempt(ctx context.Context, attemptID string) (*attemptEntry, error) {
	e := t.books.attempts[attemptID]
	if e == nil {
		row, err := t.tx.Attempt(ctx, attemptID)
		if err != nil {
			return nil, fmt.Errorf("attempt %s: %w", attemptID, interpret(err))
		}
		if err := t.holdAttempt(row); err != nil {
			return nil, err
		}
		e = t.books.attempts[attemptID]
	}
	return e, nil
}

// DeleteLapsed implements scheduler.Tx.
func (t schedulerTx) DeleteLapsed(ctx context.Context, attemptID string) error {
	e, err := t.attempt(ctx, attemptID)
	if nimbus.ErrorCode(err) == nimbus.CodeNotFound {
		return nil
	}
	if err != nil || e.now.State != scheduler.AttemptLapsed {
		return err
	}
	t.books.attempts[attemptID] = nil
	t.books.lapsed = append(t.books.lapsed, []any{attemptID})
	t.books.touch()
	return nil
}

// SetLogTotal implements scheduler.Tx.
func (t schedulerTx) SetLogTotal(ctx context.Context, attemptID string, lines int64) error {
	e, err := t.attempt(ctx, attemptID)
	if err != nil {
		return err
	}
	e.logTotal, e.changed = lines, true
	t.books.touch()
	return nil
}

// MintFences implements scheduler.Tx.
func (t schedulerTx) MintFences(ctx context.Context, n int, rank int64) (int64, error) {
	t.books.ahead.virtual = nil
	return t.tx.MintFences(ctx, gen.MintFencesParams{Count: int64(n), Rank: rank})
}

// RenewLeases implements scheduler.Tx. It takes no lock on the jobs: the
// version of the row makes a sweep that saw the lease expired look again.
func (t schedulerTx) RenewLeases(ctx context.Context, leases []scheduler.HeldLease, until time.Time) ([]scheduler.Renewal, error) {
	if len(leases) == 0 {
		return nil, nil
	}
	return t.tx.dialect.renew(ctx, t.tx, leases, micros(until))
}

// JobToken implements identity's books of job tokens.
func (s *Store) JobToken(ctx context.Context, hash string) (orgID, attemptID string, err error) {
	if hash == "" {
		return "", "", interpret(sql.ErrNoRows)
	}
	err = s.read(ctx, func(t *tx) error {
		row, err := t.AttemptByToken(ctx, gen.AttemptByTokenParams{TokenHash: hash, ExpiresAt: micros(t.now)})
		orgID, attemptID = row.OrgID, row.ID
		return err
	})
	return orgID, attemptID, err
}

// JobOfAttempt is the job that an attempt runs. Codes: not_found.
func (s *Store) JobOfAttempt(ctx context.Context, orgID, attemptID string) (jobID string, err error) {
	err = s.read(ctx, func(t *tx) error {
		jobID, err = t.JobOfAttempt(ctx, gen.JobOfAttemptParams{ID: attemptID, OrgID: orgID})
		return err
	})
	return jobID, err
}

// ExpiredAttempts implements scheduler.Reader.
func (t schedulerTx) ExpiredAttempts(ctx context.Context, most int) ([]string, error) {
	return t.tx.ExpiredAttempts(ctx, gen.ExpiredAttemptsParams{ExpiresAt: t.nowMicros(), Limit: int32(most)})
}

// RunnersToRemove implements scheduler.Reader.
func (t schedulerTx) RunnersToRemove(ctx context.Context, most int) ([]string, error) {
	return t.tx.RunnersToRemove(ctx, gen.RunnersToRemoveParams{RunnerTodo: t.nowMicros(), Limit: int32(most)})
}
