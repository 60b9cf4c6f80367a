package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// CountBacklog implements scheduler.Reader.
func (t schedulerTx) CountBacklog(ctx context.Context, classID string, w scheduler.Waiting, before string, most int) (int, error) {
	if before == "" {
		before = lastID
	}
	n, err := t.tx.CountBacklog(ctx, gen.CountBacklogParams{ClassID: classID, OrgID: w.OrgID, Priority: int64(w.Priority),
		RepoID: w.RepoID, JobID: before, Limit: int32(most)})
	return int(n), err
}

// Window implements scheduler.Reader.
func (t schedulerTx) Window(ctx context.Context, classID string, most int) ([]scheduler.QueuedJob, error) {
	rows, err := t.tx.Window(ctx, gen.WindowParams{ClassID: classID, Limit: int32(most)})
	out := make([]scheduler.QueuedJob, len(rows))
	for i, r := range rows {
		out[i] = scheduler.QueuedJob{ID: r.JobID, OrgID: r.OrgID, Rank: r.FairRank}
	}
	return out, err
}

// FlowTagsNow implements scheduler.Reader.
func (t schedulerTx) FlowTagsNow(ctx context.Context, ids []string) (map[string]scheduler.FlowTag, error) {
	tags := make(map[string]scheduler.FlowTag, len(ids))
	for _, id := range ids {
		tags[id] = scheduler.FlowTag{Weight: scheduler.DefaultWeight}
	}
	rows, err := t.query(ctx, selectFlows, "id", ids, "")
	known, err := scanAll(rows, err, scanFlow)
	for _, v := range known {
		tags[v.id] = v.tag
	}
	return tags, err
}

// RunningJobs implements scheduler.Reader.
func (t schedulerTx) RunningJobs(ctx context.Context, most int) ([]scheduler.RunningJob, error) {
	rows, err := t.tx.RunningJobs(ctx, int32(most))
	out := make([]scheduler.RunningJob, len(rows))
	for i, r := range rows {
		out[i] = scheduler.RunningJob{Flow: scheduler.Flow{OrgID: r.OrgID, RepoID: r.RepoID}, ClassID: r.ClassID, HostID: r.HostID,
			AcceptedAt: fromMicros(r.AcceptedAt)}
	}
	return out, err
}

// OrgDepth implements scheduler.Reader.
func (t schedulerTx) OrgDepth(ctx context.Context, orgID, classID string, most int) (d scheduler.OrgDepth, err error) {
	window, err := t.Window(ctx, classID, most)
	if err != nil {
		return d, err
	}
	oldest := func(id string) {
		if d.Oldest == "" || id < d.Oldest {
			d.Oldest = id
		}
	}
	for _, q := range window {
		if q.OrgID == orgID {
			d.Queued++
			oldest(q.ID)
		}
	}
	pending, err1 := t.tx.CountOrgBacklog(ctx, gen.CountOrgBacklogParams{ClassID: classID, OrgID: orgID, Limit: int32(most)})
	stuck, err2 := t.tx.CountOrgStuck(ctx, gen.CountOrgStuckParams{ClassID: classID, OrgID: orgID, Limit: int32(most)})
	first, err3 := t.tx.OldestPending(ctx, gen.OldestPendingParams{ClassID: classID, OrgID: orgID, Limit: int32(most)})
	for _, id := range first {
		oldest(id)
	}
	d.Pending, d.Stuck = int(pending), int(stuck)
	d.More = len(window) == most || d.Pending == most || d.Stuck == most
	return d, errors.Join(err1, err2, err3)
}

// FirstPending implements scheduler.Reader.
func (t schedulerTx) FirstPending(ctx context.Context, orgID, classID string, most int) ([]string, error) {
	return t.tx.OldestPending(ctx, gen.OldestPendingParams{ClassID: classID, OrgID: orgID, Limit: int32(most)})
}

// OrgWeight implements scheduler.Reader.
func (t schedulerTx) OrgWeight(ctx context.Context, orgID string) (int, error) {
	weight, err := t.tx.OrgWeight(ctx, orgID)
	if errors.Is(err, sql.ErrNoRows) {
		return scheduler.DefaultWeight, nil
	}
	return int(weight), err
}

// RepoWeights implements scheduler.Reader.
func (t schedulerTx) RepoWeights(ctx context.Context, orgID, after string, most int) ([]scheduler.Weight, error) {
	rows, err := t.tx.RepoWeights(ctx, gen.RepoWeightsParams{Parent: orgID, Name: after, Limit: int32(most)})
	out := make([]scheduler.Weight, len(rows))
	for i, r := range rows {
		out[i] = scheduler.Weight{Repo: r.Name, Percent: int(r.Weight)}
	}
	return out, err
}

// SetWeight implements scheduler.Tx.
func (t schedulerTx) SetWeight(ctx context.Context, orgID string, w scheduler.Weight) error {
	if err := t.settled(ctx); err != nil {
		return err
	}
	p := gen.SetWeightParams{ID: orgID, Weight: int64(w.Percent)}
	if w.Repo != "" {
		repoID, err := t.tx.RepoOfOrg(ctx, gen.RepoOfOrgParams{Name: strings.ToLower(w.Repo), OrgID: orgID})
		if errors.Is(err, sql.ErrNoRows) {
			return nimbus.Errorf(nimbus.CodeNotFound, "there is no such repository in this org").
				WithHint("one is known from its first job on")
		}
		if err != nil {
			return fmt.Errorf("find the repository: %w", err)
		}
		p.ID, p.Parent = orgID+"/"+repoID, orgID
	}
	return t.tx.SetWeight(ctx, p)
}

// Misplaced implements scheduler.Reader.
func (t schedulerTx) Misplaced(ctx context.Context, after scheduler.Cursor, most int) (ids []string, last scheduler.Cursor, err error) {
	rows, err := t.tx.Misplaced(ctx, gen.MisplacedParams{OrgID: after.OrgID, ID: after.JobID, Limit: int32(most)})
	for _, r := range rows {
		if r.Misplaced != 0 {
			ids = append(ids, r.ID)
		}
		last = scheduler.Cursor{OrgID: r.OrgID, JobID: r.ID}
	}
	if len(rows) < most {
		last = scheduler.Cursor{} // all were seen: from the beginning the next time
	}
	return ids, last, err
}

// PutBack implements scheduler.Tx.
func (t schedulerTx) PutBack(ctx context.Context, jobID string) (bool, error) {
	if err := t.settled(ctx); err != nil {
		return false, err
	}
	e, err := t.lock(ctx, jobID)
	if err != nil {
		return false, err
	}
	there := true
	switch e.stored.table {
	case "queue":
		there, err = t.tx.InQueue(ctx, jobID)
	case "backlog":
		there, err = t.tx.InBacklog(ctx, jobID)
	case "stuck":
		there, err = t.tx.AmongStuck(ctx, jobID)
	}
	if err != nil || there {
		return false, err
	}
	e.stored, e.changed = place{}, true
	t.books.touch()
	return true, nil
}
