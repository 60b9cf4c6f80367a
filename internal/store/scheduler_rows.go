package store

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// jobRecord is a row of jobs in the words of the scheduler.
func jobRecord(r gen.Job) (*scheduler.JobRecord, error) {
	j := &scheduler.JobRecord{
		Job: nimbus.Job{
			ID: r.ID, OrgID: r.OrgID, Source: nimbus.Source(r.Source), Name: r.Name, Repo: r.Repo,
			State: nimbus.State(r.State), Result: nimbus.Result(r.Result),
			Reason:    nimbus.Reason{Code: nimbus.ReasonCode(r.ReasonCode), Message: r.ReasonMessage},
			AttemptID: r.AttemptID, AttemptCount: int(r.AttemptCount), MaxAttempts: int(r.MaxAttempts),
			Timeline: nimbus.Timeline{ReceivedAt: fromMicros(r.ReceivedAt), AdmittedAt: fromMicros(r.AdmittedAt),
				QueuedAt: fromMicros(r.QueuedAt), FinishedAt: fromMicros(r.FinishedAt)},
		},
		RepoID: r.RepoID, AnyExecutor: r.AnyExecutor, IdempotencyKey: r.IdempotencyKey, Rank: r.FairRank,
		Stop: scheduler.Ending{Result: nimbus.Result(r.StopResult),
			Reason: nimbus.Reason{Code: nimbus.ReasonCode(r.StopCode), Message: r.StopMessage}},
		DueAt: fromMicros(r.DueAt), CheckAt: fromMicros(r.CheckAt), Checks: int(r.Checks),
	}
	err := errors.Join(json.Unmarshal([]byte(r.Labels), &j.Labels), json.Unmarshal([]byte(r.Class), &j.Class),
		json.Unmarshal([]byte(r.Spec), &j.Spec), json.Unmarshal([]byte(r.Github), &j.GitHub))
	if err != nil {
		return nil, fmt.Errorf("read the row of job %s: %w", r.ID, err)
	}
	return j, nil
}

// jobOfView is a job as people see it.
func jobOfView(v gen.JobView) (nimbus.Job, error) {
	r, err := jobRecord(gen.Job{
		ID: v.ID, OrgID: v.OrgID, Source: v.Source, Name: v.Name, Repo: v.Repo, Labels: v.Labels, Class: v.Class,
		Spec: v.Spec, Github: v.Github, MaxAttempts: v.MaxAttempts, ReceivedAt: v.ReceivedAt, AdmittedAt: v.AdmittedAt,
		State: v.State, Result: v.Result, ReasonCode: v.ReasonCode, ReasonMessage: v.ReasonMessage,
		AttemptID: v.AttemptID, AttemptCount: v.AttemptCount, QueuedAt: v.QueuedAt, FinishedAt: v.FinishedAt,
	})
	if err != nil {
		return nimbus.Job{}, err
	}
	j := r.Job
	j.HostID, j.LogLines, j.LogComplete = v.HostID, v.LogStored, v.LogComplete
	j.Timeline.OfferedAt, j.Timeline.AcceptedAt = fromMicros(v.OfferedAt), fromMicros(v.AcceptedAt)
	j.Timeline.SandboxReadyAt, j.Timeline.RunningAt = fromMicros(v.SandboxReadyAt), fromMicros(v.RunningAt)
	j.Timeline.FirstOutputAt, j.Timeline.DestroyedAt = fromMicros(v.FirstOutputAt), fromMicros(v.DestroyedAt)
	if v.ExitCode.Valid {
		code := int(v.ExitCode.Int64)
		j.ExitCode = &code
	}
	return j, nil
}

// attempt is a row of attempts in the words of the scheduler.
func attempt(r gen.Attempt) (*scheduler.Attempt, error) {
	a := &scheduler.Attempt{
		Lease: nimbus.Lease{AttemptID: r.ID, Fence: r.Fence}, JobID: r.JobID, OrgID: r.OrgID, HostID: r.HostID,
		State: scheduler.AttemptState(r.State), ExpiresAt: fromMicros(r.ExpiresAt), StopAt: fromMicros(r.StopAt),
		OfferedAt: fromMicros(r.OfferedAt), AcceptedAt: fromMicros(r.AcceptedAt),
		SandboxReadyAt: fromMicros(r.SandboxReadyAt), StartedAt: fromMicros(r.StartedAt),
		RunningAt: fromMicros(r.RunningAt), FirstOutputAt: fromMicros(r.FirstOutputAt),
		EndedAt: fromMicros(r.EndedAt), DestroyedAt: fromMicros(r.DestroyedAt),
		Runner:         nimbus.Runner{ID: r.RunnerID, Name: r.RunnerName},
		RemoveRunnerAt: fromMicros(r.RunnerTodo), TokenTodo: scheduler.TokenTodo(r.TokenTodo),
		Version: r.Version,
	}
	if r.Outcome != "" {
		a.Outcome = &nimbus.Outcome{}
		if err := json.Unmarshal([]byte(r.Outcome), a.Outcome); err != nil {
			return nil, fmt.Errorf("read the outcome of attempt %s: %w", r.ID, err)
		}
	}
	return a, nil
}

// classes reads stored classes.
func classes(specs []string, err error) ([]nimbus.Class, error) {
	if err != nil {
		return nil, err
	}
	out := make([]nimbus.Class, len(specs))
	for i, spec := range specs {
		if err := json.Unmarshal([]byte(spec), &out[i]); err != nil {
			return nil, fmt.Errorf("read a class: %w", err)
		}
	}
	return out, nil
}
