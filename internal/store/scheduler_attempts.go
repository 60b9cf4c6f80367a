package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// Attempt implements scheduler.Reader.
func (t schedulerTx) Attempt(ctx context.Context, attemptID string) (*scheduler.Attempt, error) {
	row, err := t.tx.Attempt(ctx, attemptID)
	if err != nil {
		return nil, interpret(err)
	}
	return attempt(row)
}

// OpenAttempts implements scheduler.Reader.
func (t schedulerTx) OpenAttempts(ctx context.Context, hostID string) ([]*scheduler.Attempt, error) {
	rows, err := t.tx.OpenAttempts(ctx, hostID)
	if err != nil {
		return nil, err
	}
	out := make([]*scheduler.Attempt, len(rows))
	for i, r := range rows {
		if out[i], err = attempt(r); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// InsertAttempt implements scheduler.Tx.
func (t schedulerTx) InsertAttempt(ctx context.Context, a *scheduler.Attempt) error {
	return t.tx.InsertAttempt(ctx, gen.InsertAttemptParams{ID: a.AttemptID, JobID: a.JobID, OrgID: a.OrgID,
		HostID: a.HostID, Fence: a.Fence, State: string(a.State), ExpiresAt: micros(a.ExpiresAt), OfferedAt: micros(a.OfferedAt)})
}

// SaveAttempt implements scheduler.Tx.
func (t schedulerTx) SaveAttempt(ctx context.Context, a *scheduler.Attempt) error {
	outcome, code := "", sql.NullInt64{}
	if a.Outcome != nil {
		b, err := json.Marshal(a.Outcome)
		if err != nil {
			return err
		}
		outcome = string(b)
		if a.Outcome.ExitCode != nil {
			code = sql.NullInt64{Int64: int64(*a.Outcome.ExitCode), Valid: true}
		}
	}
	n, err := t.tx.SaveAttempt(ctx, gen.SaveAttemptParams{
		ID: a.AttemptID, Version: a.Version, JobID: a.JobID, State: string(a.State), ExpiresAt: micros(a.ExpiresAt),
		StopAt: micros(a.StopAt), AcceptedAt: micros(a.AcceptedAt), SandboxReadyAt: micros(a.SandboxReadyAt),
		StartedAt: micros(a.StartedAt), RunningAt: micros(a.RunningAt), FirstOutputAt: micros(a.FirstOutputAt),
		EndedAt: micros(a.EndedAt), DestroyedAt: micros(a.DestroyedAt), RunnerName: a.Runner.Name, RunnerID: a.Runner.ID,
		RunnerTodo: micros(a.RemoveRunnerAt), TokenTodo: string(a.TokenTodo), Outcome: outcome, ExitCode: code,
	})
	if err != nil {
		return fmt.Errorf("save attempt %s: %w", a.AttemptID, err)
	}
	if n == 0 {
		return fmt.Errorf("attempt %s changed since it was read: %w", a.AttemptID, scheduler.ErrRace)
	}
	a.Version++
	return nil
}

// DeleteLapsed implements scheduler.Tx.
func (t schedulerTx) DeleteLapsed(ctx context.Context, attemptID string) error {
	return t.tx.DeleteLapsed(ctx, attemptID)
}

// SetLogTotal implements scheduler.Tx.
func (t schedulerTx) SetLogTotal(ctx context.Context, attemptID string, lines int64) error {
	return t.tx.SetLogTotal(ctx, gen.SetLogTotalParams{ID: attemptID, LogTotal: lines})
}

// MintFence implements scheduler.Tx.
func (t schedulerTx) MintFence(ctx context.Context) (int64, error) { return t.tx.MintFence(ctx) }

// RenewLease implements scheduler.Tx. It takes no lock on the job: the version
// of the row makes a sweep that saw the lease expired look again.
func (t schedulerTx) RenewLease(ctx context.Context, hostID string, l nimbus.Lease, until time.Time) (jobID string, stopAt time.Time, ok bool, err error) {
	row, err := t.tx.RenewLease(ctx, gen.RenewLeaseParams{ID: l.AttemptID, HostID: hostID, Fence: l.Fence,
		ExpiresAt: micros(until), ExpiresAt_2: t.nowMicros()})
	if errors.Is(err, sql.ErrNoRows) {
		return "", time.Time{}, false, nil
	}
	return row.JobID, fromMicros(row.StopAt), err == nil, err
}

// ExpiredAttempts implements scheduler.Reader.
func (t schedulerTx) ExpiredAttempts(ctx context.Context, most int) ([]string, error) {
	return t.tx.ExpiredAttempts(ctx, gen.ExpiredAttemptsParams{ExpiresAt: t.nowMicros(), Limit: int32(most)})
}

// RunnersToRemove implements scheduler.Reader.
func (t schedulerTx) RunnersToRemove(ctx context.Context, most int) ([]string, error) {
	return t.tx.RunnersToRemove(ctx, gen.RunnersToRemoveParams{RunnerTodo: t.nowMicros(), Limit: int32(most)})
}

// TokenTodos implements scheduler.Reader.
func (t schedulerTx) TokenTodos(ctx context.Context, most int) (map[string]scheduler.TokenTodo, error) {
	rows, err := t.tx.TokenTodos(ctx, int32(most))
	todos := make(map[string]scheduler.TokenTodo, len(rows))
	for _, r := range rows {
		todos[r.ID] = scheduler.TokenTodo(r.TokenTodo)
	}
	return todos, err
}

// TokenDone implements scheduler.Tx.
func (t schedulerTx) TokenDone(ctx context.Context, attemptID string, todo scheduler.TokenTodo) error {
	return t.tx.TokenDone(ctx, gen.TokenDoneParams{ID: attemptID, TokenTodo: string(todo)})
}
