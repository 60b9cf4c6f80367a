package store

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// maxEvents bounds the history of one job. Beyond it only its end is written:
// a job that is offered again and again for a day must not fill the table.
const maxEvents = 1000

// Events implements scheduler.Reader.
func (t schedulerTx) Events(ctx context.Context, orgID, jobID string, after int64, most int) ([]nimbus.JobEvent, error) {
	if err := t.settled(ctx); err != nil {
		return nil, err
	}
	rows, err := t.tx.Events(ctx, gen.EventsParams{OrgID: orgID, ID: jobID, Seq: after, Limit: int32(most)})
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 { // every job has at least one: it is none, or the last was told before
		_, err := t.Job(ctx, orgID, jobID)
		return nil, err
	}
	events := make([]nimbus.JobEvent, len(rows))
	for i, r := range rows {
		events[i] = nimbus.JobEvent{JobID: r.JobID, Seq: r.Seq, At: fromMicros(r.At), Kind: r.Kind,
			AttemptID: r.AttemptID, Actor: r.Actor, Detail: r.Detail}
	}
	return events, nil
}

// JobRecord implements scheduler.Reader.
func (t schedulerTx) JobRecord(ctx context.Context, jobID string) (*scheduler.JobRecord, error) {
	if e := t.held(jobID); e != nil {
		return clone(&e.now), nil
	}
	row, err := t.tx.JobRow(ctx, jobID)
	if err != nil {
		return nil, fmt.Errorf("read job %s: %w", jobID, err)
	}
	return jobRecord(row)
}

// held is what the transaction has of a job that it locked, nil for another.
func (t schedulerTx) held(jobID string) *jobEntry {
	if t.books == nil {
		return nil
	}
	return t.books.jobs[jobID]
}

// clone is a copy of a record that its reader may change.
func clone(j *scheduler.JobRecord) *scheduler.JobRecord {
	copied := *j
	return &copied
}

// LockJob implements scheduler.Tx.
func (t schedulerTx) LockJob(ctx context.Context, jobID string) (*scheduler.JobRecord, error) {
	e, err := t.lock(ctx, jobID)
	if err != nil {
		return nil, err
	}
	return clone(&e.now), nil
}

func (t schedulerTx) lock(ctx context.Context, jobID string) (*jobEntry, error) {
	if err := t.lockJobs(ctx, []string{jobID}); err != nil {
		return nil, err
	}
	e := t.books.jobs[jobID]
	if e == nil {
		return nil, fmt.Errorf("lock job %s: %w", jobID, interpret(sql.ErrNoRows))
	}
	return e, nil
}

// JobByIdempotencyKey implements scheduler.Reader.
func (t schedulerTx) JobByIdempotencyKey(ctx context.Context, orgID, key string) (string, error) {
	if key == "" {
		return "", interpret(sql.ErrNoRows)
	}
	if err := t.settled(ctx); err != nil {
		return "", err
	}
	id, err := t.tx.JobIDByIdempotencyKey(ctx, gen.JobIDByIdempotencyKeyParams{OrgID: orgID, IdempotencyKey: key})
	return id, interpret(err)
}

// JobByGitHub implements scheduler.Reader.
func (t schedulerTx) JobByGitHub(ctx context.Context, githubJobID int64) (string, error) {
	if t.books != nil {
		if id, known := t.books.github[githubJobID]; known && id == "" {
			return "", interpret(sql.ErrNoRows)
		} else if known {
			return id, nil
		}
	}
	id, err := t.tx.JobIDByGitHub(ctx, githubJobID)
	return id, interpret(err)
}

// InsertJob implements scheduler.Tx.
func (t schedulerTx) InsertJob(ctx context.Context, j *scheduler.JobRecord, actor string) error {
	j.State = nimbus.StatePending
	j.Timeline.AdmittedAt = t.tx.now
	t.books.jobs[j.ID] = &jobEntry{now: *clone(j), inserted: true}
	if j.GitHub.JobID != 0 {
		t.books.github[j.GitHub.JobID] = j.ID
	}
	t.books.touch()
	return t.AddEvent(ctx, j, nimbus.JobEvent{Kind: string(j.State), Actor: actor})
}

// MoveJob implements scheduler.Tx. Nothing else changes a job's state.
func (t schedulerTx) MoveJob(ctx context.Context, j *scheduler.JobRecord, m scheduler.Move) error {
	legal := j.State.CanBecome(m.To)
	if m.To == nimbus.StateFinished {
		legal = j.State.CanFinish(m.Result)
	}
	if !legal {
		return fmt.Errorf("job %s can't go from %s to %s %s", j.ID, j.State, m.To, m.Result)
	}
	if _, err := t.lock(ctx, j.ID); err != nil {
		return err
	}
	j.State, j.Result, j.Reason = m.To, m.Result, m.Reason
	switch m.To {
	case nimbus.StateQueued:
		j.Timeline.QueuedAt = t.tx.now
	case nimbus.StateFinished:
		j.Timeline.FinishedAt = t.tx.now
		j.DueAt, j.CheckAt = time.Time{}, time.Time{}
	}
	if err := t.SaveJob(ctx, j); err != nil {
		return err
	}
	detail := m.Detail
	if detail == "" {
		detail = m.Reason.Message
	}
	if m.Result != "" {
		detail = strings.TrimSuffix(string(m.Result)+": "+detail, ": ")
	}
	return t.AddEvent(ctx, j, nimbus.JobEvent{Kind: string(m.To), Actor: m.Actor, AttemptID: j.AttemptID, Detail: detail})
}

// SaveJob implements scheduler.Tx.
func (t schedulerTx) SaveJob(ctx context.Context, j *scheduler.JobRecord) error {
	e, err := t.lock(ctx, j.ID)
	if err != nil {
		return err
	}
	e.now, e.changed = *clone(j), true
	t.books.touch()
	return nil
}

// AddEvent implements scheduler.Tx.
func (t schedulerTx) AddEvent(ctx context.Context, j *scheduler.JobRecord, event nimbus.JobEvent) error {
	e, err := t.lock(ctx, j.ID)
	if err != nil {
		return err
	}
	e.events++
	e.changed = true
	t.books.touch()
	if e.events > maxEvents && event.Kind != string(nimbus.StateFinished) {
		return nil
	}
	t.books.events = append(t.books.events, []any{j.ID, e.events, t.nowMicros(), event.Kind, event.AttemptID, event.Actor, event.Detail})
	return nil
}

// SetDeadline implements scheduler.Tx.
func (t schedulerTx) SetDeadline(ctx context.Context, jobID string, at time.Time) error {
	if at.IsZero() {
		return t.tx.DropDeadline(ctx, jobID)
	}
	return t.tx.MoveDeadline(ctx, gen.MoveDeadlineParams{JobID: jobID, DueAt: micros(at)})
}
