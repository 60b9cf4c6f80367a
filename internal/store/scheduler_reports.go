package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// FinishedRuns implements scheduler.Reader.
func (t schedulerTx) FinishedRuns(ctx context.Context, orgID string, since, until time.Time, most int) ([]nimbus.Run, error) {
	rows, err := t.tx.FinishedRuns(ctx, gen.FinishedRunsParams{OrgID: orgID, FinishedAt: micros(since), FinishedAt_2: micros(until), Limit: int32(most)})
	if err != nil {
		return nil, fmt.Errorf("read what ended: %w", err)
	}
	runs := make([]nimbus.Run, len(rows))
	for i, r := range rows {
		runs[i] = nimbus.Run{JobID: r.ID, Name: r.Name, Repo: r.Repo, Result: nimbus.Result(r.Result), Reason: nimbus.ReasonCode(r.ReasonCode),
			Origin: nimbus.Origin(r.Origin), QueuedAt: fromMicros(r.QueuedAt), AcceptedAt: fromMicros(r.AcceptedAt),
			SandboxReadyAt: fromMicros(r.SandboxReadyAt), RunningAt: fromMicros(r.RunningAt), FinishedAt: fromMicros(r.FinishedAt)}
		if err := json.Unmarshal([]byte(r.Class), &runs[i].Class); err != nil {
			return nil, fmt.Errorf("read the class of job %s: %w", r.ID, err)
		}
		if runs[i].Usage, err = totalsOf(r.Outcome); err != nil {
			return nil, err
		}
	}
	return runs, nil
}

// HostJobs implements scheduler.Reader.
func (t schedulerTx) HostJobs(ctx context.Context, most int) ([]nimbus.HostJob, error) {
	rows, err := t.tx.HostJobs(ctx, int32(most))
	if err != nil {
		return nil, fmt.Errorf("read what runs: %w", err)
	}
	jobs := make([]nimbus.HostJob, len(rows))
	for i, r := range rows {
		const milli = 1000
		jobs[i] = nimbus.HostJob{HostID: r.HostID, JobID: r.JobID, OrgID: r.OrgID, AttemptID: r.ID, Name: r.Name, Repo: r.Repo,
			AcceptedAt: fromMicros(r.AcceptedAt), ToldAt: fromMicros(r.ToldAt), CPUs: float64(r.CpuMilli) / milli, MemoryBytes: r.Memory}
		if err := json.Unmarshal([]byte(r.Class), &jobs[i].Class); err != nil {
			return nil, fmt.Errorf("read the class of job %s: %w", r.JobID, err)
		}
	}
	return jobs, nil
}
