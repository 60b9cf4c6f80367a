package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
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

// lastID sorts after every id.
const lastID = "~"

// Job implements scheduler.Reader.
func (t schedulerTx) Job(ctx context.Context, orgID, jobID string) (nimbus.Job, error) {
	v, err := t.tx.ViewJob(ctx, gen.ViewJobParams{OrgID: orgID, ID: jobID})
	if errors.Is(err, sql.ErrNoRows) {
		return nimbus.Job{}, &nimbus.Error{Code: nimbus.CodeNotFound, Message: "there is no such job", Err: err}
	}
	if err != nil {
		return nimbus.Job{}, err
	}
	return jobOfView(v)
}

// Jobs implements scheduler.Reader.
func (t schedulerTx) Jobs(ctx context.Context, orgID, before string, states []nimbus.State, most int) ([]nimbus.Job, error) {
	if before == "" {
		before = lastID
	}
	words, open := "", len(states) > 0
	for _, s := range states {
		words += "," + string(s)
		open = open && s != nimbus.StateFinished
	}
	if words != "" {
		words += ","
	}
	// Unfinished jobs have an index of their own: the few of them must not be
	// looked for among all that ever were.
	list := t.tx.ViewJobs
	if open {
		list = func(ctx context.Context, p gen.ViewJobsParams) ([]gen.JobView, error) {
			return t.tx.ViewOpenJobs(ctx, gen.ViewOpenJobsParams(p))
		}
	}
	views, err := list(ctx, gen.ViewJobsParams{OrgID: orgID, ID: before, States: words, Most: int32(most)})
	if err != nil {
		return nil, err
	}
	jobs := make([]nimbus.Job, len(views))
	for i, v := range views {
		if jobs[i], err = jobOfView(v); err != nil {
			return nil, err
		}
	}
	return jobs, nil
}

// Events implements scheduler.Reader.
func (t schedulerTx) Events(ctx context.Context, orgID, jobID string) ([]nimbus.JobEvent, error) {
	rows, err := t.tx.Events(ctx, gen.EventsParams{OrgID: orgID, ID: jobID})
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 { // every job has at least one
		return nil, nimbus.Errorf(nimbus.CodeNotFound, "there is no such job")
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
	row, err := t.tx.JobRow(ctx, jobID)
	if err != nil {
		return nil, fmt.Errorf("read job %s: %w", jobID, err)
	}
	return jobRecord(row)
}

// LockJob implements scheduler.Tx.
func (t schedulerTx) LockJob(ctx context.Context, jobID string) (*scheduler.JobRecord, error) {
	if err := t.tx.dialect.lockJob(ctx, t.tx.sql, jobID); err != nil {
		return nil, fmt.Errorf("lock job %s: %w", jobID, err)
	}
	return t.JobRecord(ctx, jobID)
}

// JobByIdempotencyKey implements scheduler.Reader.
func (t schedulerTx) JobByIdempotencyKey(ctx context.Context, orgID, key string) (string, error) {
	id, err := t.tx.JobIDByIdempotencyKey(ctx, gen.JobIDByIdempotencyKeyParams{OrgID: orgID, IdempotencyKey: key})
	return id, interpret(err)
}

// JobByGitHub implements scheduler.Reader.
func (t schedulerTx) JobByGitHub(ctx context.Context, githubJobID int64) (string, error) {
	id, err := t.tx.JobIDByGitHub(ctx, githubJobID)
	return id, interpret(err)
}

// InsertJob implements scheduler.Tx.
func (t schedulerTx) InsertJob(ctx context.Context, j *scheduler.JobRecord, actor string) error {
	j.State = nimbus.StatePending
	j.Timeline.AdmittedAt = t.tx.now
	class, err := t.ensureClass(ctx, j.Class)
	if err != nil {
		return err
	}
	labels, err1 := json.Marshal(j.Labels)
	spec, err2 := json.Marshal(j.Spec)
	github, err3 := json.Marshal(j.GitHub)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	err = t.tx.InsertJob(ctx, gen.InsertJobParams{
		ID: j.ID, OrgID: j.OrgID, RepoID: j.RepoID, Source: string(j.Source), Name: j.Name, Repo: j.Repo,
		Labels: string(labels), ClassID: j.Class.ID(), Class: class, AnyExecutor: j.AnyExecutor, Spec: string(spec),
		GitHubJobID: j.GitHub.JobID, Github: string(github), IdempotencyKey: j.IdempotencyKey,
		MaxAttempts: int64(j.MaxAttempts), ReceivedAt: micros(j.Timeline.ReceivedAt),
		AdmittedAt: micros(j.Timeline.AdmittedAt), State: string(j.State), DueAt: micros(j.DueAt),
	})
	if err != nil {
		return fmt.Errorf("insert job: %w", interpret(err))
	}
	if err := t.enter(ctx, j); err != nil {
		return err
	}
	return t.AddEvent(ctx, j, nimbus.JobEvent{Kind: string(j.State), Actor: actor})
}

// MoveJob implements scheduler.Tx. Nothing else writes a job's state.
func (t schedulerTx) MoveJob(ctx context.Context, j *scheduler.JobRecord, m scheduler.Move) error {
	legal := j.State.CanBecome(m.To)
	if m.To == nimbus.StateFinished {
		legal = j.State.CanFinish(m.Result)
	}
	if !legal {
		return fmt.Errorf("job %s can't go from %s to %s %s", j.ID, j.State, m.To, m.Result)
	}
	if err := t.leave(ctx, j); err != nil {
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
	if err := t.saveRow(ctx, j); err != nil {
		return err
	}
	if err := t.enter(ctx, j); err != nil {
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

// SaveJob implements scheduler.Tx. Class and rank may have changed, so that the
// job takes its place anew.
func (t schedulerTx) SaveJob(ctx context.Context, j *scheduler.JobRecord) error {
	if err := t.leave(ctx, j); err != nil {
		return err
	}
	if err := t.saveRow(ctx, j); err != nil {
		return err
	}
	return t.enter(ctx, j)
}

func (t schedulerTx) saveRow(ctx context.Context, j *scheduler.JobRecord) error {
	class, err := t.ensureClass(ctx, j.Class)
	if err != nil {
		return err
	}
	err = t.tx.SaveJob(ctx, gen.SaveJobParams{
		ID: j.ID, ClassID: j.Class.ID(), Class: class, State: string(j.State), Result: string(j.Result),
		ReasonCode: string(j.Reason.Code), ReasonMessage: j.Reason.Message, AttemptID: j.AttemptID,
		AttemptCount: int64(j.AttemptCount), FairRank: j.Rank, StopResult: string(j.Stop.Result),
		StopCode: string(j.Stop.Reason.Code), StopMessage: j.Stop.Reason.Message, DueAt: micros(j.DueAt),
		CheckAt: micros(j.CheckAt), Checks: int64(j.Checks), QueuedAt: micros(j.Timeline.QueuedAt),
		FinishedAt: micros(j.Timeline.FinishedAt),
	})
	if err != nil {
		return fmt.Errorf("save job %s: %w", j.ID, err)
	}
	return nil
}

// AddEvent implements scheduler.Tx.
func (t schedulerTx) AddEvent(ctx context.Context, j *scheduler.JobRecord, e nimbus.JobEvent) error {
	seq, err := t.tx.NextEventSeq(ctx, j.ID)
	if err != nil {
		return fmt.Errorf("number an event of job %s: %w", j.ID, err)
	}
	if seq > maxEvents && e.Kind != string(nimbus.StateFinished) {
		return nil
	}
	return t.tx.InsertEvent(ctx, gen.InsertEventParams{JobID: j.ID, Seq: seq, At: t.nowMicros(), Kind: e.Kind,
		AttemptID: e.AttemptID, Actor: e.Actor, Detail: e.Detail})
}

func (t schedulerTx) ensureClass(ctx context.Context, c nimbus.Class) (spec string, err error) {
	b, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	return string(b), t.tx.EnsureClass(ctx, gen.EnsureClassParams{ID: c.ID(), Spec: string(b)})
}
