package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// enter puts a job where its state says: a pending one into the backlog, a
// queued one into the window that hosts claim from.
func (t schedulerTx) enter(ctx context.Context, j *scheduler.JobRecord) error {
	switch j.State {
	case nimbus.StatePending:
		return t.tx.EnterBacklog(ctx, gen.EnterBacklogParams{JobID: j.ID, ClassID: j.Class.ID(), OrgID: j.OrgID, RepoID: j.RepoID})
	case nimbus.StateQueued:
		return t.tx.EnterQueue(ctx, gen.EnterQueueParams{JobID: j.ID, ClassID: j.Class.ID(), FairRank: j.Rank})
	}
	return nil
}

// leave takes a job from where its state put it.
func (t schedulerTx) leave(ctx context.Context, j *scheduler.JobRecord) error {
	switch j.State {
	case nimbus.StatePending:
		return t.tx.LeaveBacklog(ctx, j.ID)
	case nimbus.StateQueued:
		return t.tx.LeaveQueue(ctx, j.ID)
	}
	return nil
}

// Claim implements scheduler.Tx.
func (t schedulerTx) Claim(ctx context.Context, classIDs []string, n int) ([]*scheduler.JobRecord, error) {
	ids, err := t.tx.dialect.claim(ctx, t.tx.sql, classIDs, n)
	if err != nil {
		return nil, fmt.Errorf("claim: %w", err)
	}
	jobs := make([]*scheduler.JobRecord, len(ids))
	for i, id := range ids {
		if jobs[i], err = t.JobRecord(ctx, id); err != nil {
			return nil, err
		}
	}
	return jobs, nil
}

// NextPending implements scheduler.Tx.
func (t schedulerTx) NextPending(ctx context.Context, classID string, f scheduler.Flow) (*scheduler.JobRecord, error) {
	id, err := t.tx.dialect.nextPending(ctx, t.tx.sql, classID, f.OrgID, f.RepoID)
	if err != nil || id == "" {
		return nil, err
	}
	return t.JobRecord(ctx, id)
}

// QueueLength implements scheduler.Tx.
func (t schedulerTx) QueueLength(ctx context.Context, classID string) (int, error) {
	n, err := t.tx.QueueLength(ctx, classID)
	return int(n), err
}

// QueuedClasses implements scheduler.Reader.
func (t schedulerTx) QueuedClasses(ctx context.Context) ([]nimbus.Class, error) {
	return classes(t.tx.QueuedClasses(ctx))
}

// WaitingClasses implements scheduler.Reader.
func (t schedulerTx) WaitingClasses(ctx context.Context) ([]nimbus.Class, error) {
	return classes(t.tx.WaitingClasses(ctx))
}

// WaitingJobs implements scheduler.Tx.
func (t schedulerTx) WaitingJobs(ctx context.Context, classID string, most int) ([]string, error) {
	return t.tx.WaitingJobs(ctx, gen.WaitingJobsParams{ClassID: classID, Limit: int32(most)})
}

// UnschedulableJobs implements scheduler.Tx.
func (t schedulerTx) UnschedulableJobs(ctx context.Context, classID string, code nimbus.ReasonCode, most int) ([]string, error) {
	return t.tx.UnschedulableJobs(ctx, gen.UnschedulableJobsParams{ClassID: classID, ReasonCode: string(code), Limit: int32(most)})
}

// BacklogFlows implements scheduler.Tx.
func (t schedulerTx) BacklogFlows(ctx context.Context, classID string) ([]scheduler.Flow, error) {
	rows, err := t.tx.BacklogFlows(ctx, classID)
	flows := make([]scheduler.Flow, len(rows))
	for i, r := range rows {
		flows[i] = scheduler.Flow{OrgID: r.OrgID, RepoID: r.RepoID}
	}
	return flows, err
}

// FlowTag implements scheduler.Tx.
func (t schedulerTx) FlowTag(ctx context.Context, id string) (scheduler.FlowTag, error) {
	row, err := t.tx.Flow(ctx, id)
	if errors.Is(err, sql.ErrNoRows) {
		return scheduler.FlowTag{}, nil
	}
	return scheduler.FlowTag{Finish: row.Tag, Virtual: row.Vtime}, err
}

// SaveFlowTag implements scheduler.Tx.
func (t schedulerTx) SaveFlowTag(ctx context.Context, id, parent string, tag scheduler.FlowTag) error {
	return t.tx.SaveFlow(ctx, gen.SaveFlowParams{ID: id, Parent: parent, Tag: tag.Finish, Vtime: tag.Virtual})
}

// VirtualTime implements scheduler.Tx.
func (t schedulerTx) VirtualTime(ctx context.Context) (int64, error) {
	v, err := t.tx.LowestRank(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		v, err = t.tx.HighestTag(ctx)
	}
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return v, err
}

// DueJobs implements scheduler.Reader.
func (t schedulerTx) DueJobs(ctx context.Context, most int) ([]string, error) {
	return t.tx.DueJobs(ctx, gen.DueJobsParams{DueAt: t.nowMicros(), Limit: int32(most)})
}

// JobsToCheck implements scheduler.Reader.
func (t schedulerTx) JobsToCheck(ctx context.Context, most int) ([]string, error) {
	return t.tx.JobsToCheck(ctx, gen.JobsToCheckParams{CheckAt: t.nowMicros(), Limit: int32(most)})
}
