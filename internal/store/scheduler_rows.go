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
		RepoID: r.RepoID, AnyExecutor: r.AnyExecutor, IdempotencyKey: r.IdempotencyKey, Rank: r.FairRank, Cost: r.FairCost,
		Stop: scheduler.Ending{Result: nimbus.Result(r.StopResult),
			Reason: nimbus.Reason{Code: nimbus.ReasonCode(r.StopCode), Message: r.StopMessage}},
		DueAt: fromMicros(r.DueAt), CheckAt: fromMicros(r.CheckAt), Checks: int(r.Checks),
	}
	j.Priority, j.RerunOf, j.IdempotentSum = int(r.Priority), r.RerunOf, r.IdempotentSum
	err := errors.Join(unmarshalSome(r.LimitKeys, &j.LimitKeys), unmarshalSome(r.Metadata, &j.Metadata), json.Unmarshal([]byte(r.Labels), &j.Labels), json.Unmarshal([]byte(r.Class), &j.Class),
		json.Unmarshal([]byte(r.Spec), &j.Spec), json.Unmarshal([]byte(r.Github), &j.GitHub))
	if err != nil {
		return nil, fmt.Errorf("read the row of job %s: %w", r.ID, err)
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
		Runner:         nimbus.Runner{ID: r.RunnerID, Name: r.RunnerName, Org: r.RunnerOrg},
		RemoveRunnerAt: fromMicros(r.RunnerTodo), TokenHash: r.TokenHash, Version: r.Version,
		Origin: nimbus.Origin(r.Origin),
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

// unmarshalSome reads JSON that is left out where it would be empty.
func unmarshalSome(text string, into any) error {
	if text == "" {
		return nil
	}
	return json.Unmarshal([]byte(text), into)
}

// marshalSome writes JSON, or nothing where there is nothing.
func marshalSome(v any, length int) (string, error) {
	if length == 0 {
		return "", nil
	}
	b, err := json.Marshal(v)
	return string(b), err
}

// jobColumns and attemptColumns are in the order in which scanJob and
// scanAttempt read them.
const (
	jobColumns = "id, org_id, repo_id, source, name, repo, labels, class_id, class, any_executor, spec, github_job_id, github, " +
		"idempotency_key, max_attempts, received_at, admitted_at, state, result, reason_code, reason_message, attempt_id, " +
		"attempt_count, fair_rank, stop_result, stop_code, stop_message, due_at, check_at, checks, queued_at, finished_at, " +
		"event_count, priority, fair_cost, limit_keys, metadata, rerun_of, idempotent_sum"
	attemptColumns = "id, job_id, org_id, host_id, fence, version, state, expires_at, stop_at, offered_at, accepted_at, " +
		"sandbox_ready_at, started_at, running_at, first_output_at, ended_at, destroyed_at, runner_name, runner_id, runner_todo, " +
		"outcome, exit_code, log_total, token_hash, runner_org, origin"
)

func scanJob(rows scanner, j *gen.Job) error { return rows.Scan(jobFields(j)...) }

func jobFields(j *gen.Job) []any {
	return []any{&j.ID, &j.OrgID, &j.RepoID, &j.Source, &j.Name, &j.Repo, &j.Labels, &j.ClassID, &j.Class, &j.AnyExecutor,
		&j.Spec, &j.GitHubJobID, &j.Github, &j.IdempotencyKey, &j.MaxAttempts, &j.ReceivedAt, &j.AdmittedAt, &j.State,
		&j.Result, &j.ReasonCode, &j.ReasonMessage, &j.AttemptID, &j.AttemptCount, &j.FairRank, &j.StopResult, &j.StopCode,
		&j.StopMessage, &j.DueAt, &j.CheckAt, &j.Checks, &j.QueuedAt, &j.FinishedAt, &j.EventCount, &j.Priority, &j.FairCost,
		&j.LimitKeys, &j.Metadata, &j.RerunOf, &j.IdempotentSum}
}

func scanAttempt(rows scanner, a *gen.Attempt) error {
	return rows.Scan(&a.ID, &a.JobID, &a.OrgID, &a.HostID, &a.Fence, &a.Version, &a.State, &a.ExpiresAt, &a.StopAt,
		&a.OfferedAt, &a.AcceptedAt, &a.SandboxReadyAt, &a.StartedAt, &a.RunningAt, &a.FirstOutputAt, &a.EndedAt,
		&a.DestroyedAt, &a.RunnerName, &a.RunnerID, &a.RunnerTodo, &a.Outcome, &a.ExitCode, &a.LogTotal, &a.TokenHash, &a.RunnerOrg, &a.Origin)
}

// jobRow is a job as bulk statements take it: its id, what changes, and what
// stays as it was admitted.
func jobRow(e *jobEntry) ([]any, error) {
	j := &e.now
	class, err := json.Marshal(j.Class)
	if err != nil {
		return nil, err
	}
	keys, err := marshalSome(j.LimitKeys, len(j.LimitKeys))
	if err != nil {
		return nil, err
	}
	row := []any{
		j.ID, j.Class.ID(), string(class), string(j.State), string(j.Result), string(j.Reason.Code), j.Reason.Message, j.AttemptID,
		int64(j.AttemptCount), j.Rank, string(j.Stop.Result), string(j.Stop.Reason.Code), j.Stop.Reason.Message, micros(j.DueAt),
		micros(j.CheckAt), int64(j.Checks), micros(j.Timeline.QueuedAt), micros(j.Timeline.FinishedAt), e.events,
		int64(j.Priority), j.Cost, keys,
	}
	if !e.inserted {
		return row, nil
	}
	labels, err1 := json.Marshal(j.Labels)
	spec, err2 := json.Marshal(j.Spec)
	github, err3 := json.Marshal(j.GitHub)
	metadata, err4 := marshalSome(j.Metadata, len(j.Metadata))
	return append(row, j.OrgID, j.RepoID, string(j.Source), j.Name, j.Repo, string(labels), j.AnyExecutor, string(spec),
		j.GitHub.JobID, string(github), j.IdempotencyKey, int64(j.MaxAttempts), micros(j.Timeline.ReceivedAt),
		micros(j.Timeline.AdmittedAt), metadata, j.RerunOf, j.IdempotentSum), errors.Join(err1, err2, err3, err4)
}

// attemptRow is what changes of an attempt.
func attemptRow(e *attemptEntry) ([]any, error) {
	a := &e.now
	outcome, code := "", any(nil)
	if a.Outcome != nil {
		b, err := json.Marshal(a.Outcome)
		if err != nil {
			return nil, err
		}
		outcome = string(b)
		if a.Outcome.ExitCode != nil {
			code = int64(*a.Outcome.ExitCode)
		}
	}
	return []any{
		a.JobID, string(a.State), micros(a.ExpiresAt), micros(a.StopAt), micros(a.AcceptedAt), micros(a.SandboxReadyAt),
		micros(a.StartedAt), micros(a.RunningAt), micros(a.FirstOutputAt), micros(a.EndedAt), micros(a.DestroyedAt),
		a.Runner.Name, a.Runner.ID, a.Runner.Org, micros(a.RemoveRunnerAt), outcome, code, a.TokenHash, string(a.Origin), e.logTotal,
	}, nil
}

// newClasses are the classes of jobs that are about to be written, for the
// table that names them.
func (b *books) newClasses() (rows [][]any) {
	specs := map[string]string{}
	for _, id := range sortedKeys(b.jobs) {
		e := b.jobs[id]
		if !e.inserted && !e.changed {
			continue
		}
		class := e.now.Class.ID()
		if b.classes[class] {
			continue
		}
		b.classes[class] = true
		spec, err := json.Marshal(e.now.Class)
		if err != nil {
			continue // jobRow tells
		}
		specs[class] = string(spec)
	}
	for _, class := range sortedKeys(specs) {
		rows = append(rows, []any{class, specs[class]})
	}
	return rows
}

func scanRenewal(rows scanner, r *scheduler.Renewal) error {
	var stopAt int64
	err := rows.Scan(&r.AttemptID, &r.HostID, &r.Fence, &r.JobID, &stopAt)
	r.StopAt = fromMicros(stopAt)
	return err
}
