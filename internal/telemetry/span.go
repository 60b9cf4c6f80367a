package telemetry

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/nimbus-ci/nimbus"
)

// phase is a part of a job's life, from when it begins.
type phase struct {
	name string
	from time.Time
}

// phases are the parts of a job's life that it reached, in their order. Each
// ends where the next begins, and the last one with the job.
func phases(t nimbus.Timeline) []phase {
	all := []phase{
		{"received", t.ReceivedAt}, {"queued", t.AdmittedAt}, {"offered", t.OfferedAt}, {"accepted", t.AcceptedAt},
		{"sandbox", t.SandboxReadyAt}, {"run", t.RunningAt}, {"finish", t.FinishedAt},
	}
	var reached []phase
	for _, p := range all {
		if !p.from.IsZero() {
			reached = append(reached, p)
		}
	}
	return reached
}

// record makes the spans of a job that ended.
func record(tracer trace.Tracer, j *nimbus.Job) {
	reached := phases(j.Timeline)
	if len(reached) == 0 {
		return
	}
	over := j.Timeline.FinishedAt
	if j.Timeline.DestroyedAt.After(over) {
		over = j.Timeline.DestroyedAt
	}
	ctx, job := start(context.Background(), tracer, j, "job", reached[0].from)
	job.SetAttributes(attributes(j)...)
	if j.Result != nimbus.ResultSuccess && j.Result != nimbus.ResultCancelled {
		job.SetStatus(codes.Error, string(j.Result))
	}
	for i, p := range reached {
		_, span := start(ctx, tracer, j, p.name, p.from)
		if p.name == "run" && !j.Timeline.FirstOutputAt.IsZero() {
			span.AddEvent("first output", trace.WithTimestamp(j.Timeline.FirstOutputAt))
		}
		end := over
		if i+1 < len(reached) {
			end = reached[i+1].from
		}
		if end.Before(p.from) { // an earlier attempt's time, of a job that ended while it was queued again
			end = p.from
		}
		span.End(trace.WithTimestamp(end))
	}
	job.End(trace.WithTimestamp(over))
}

func start(ctx context.Context, tracer trace.Tracer, j *nimbus.Job, name string, at time.Time) (context.Context, trace.Span) {
	return tracer.Start(context.WithValue(ctx, spanKey{}, spanOf{j.ID, name}), name, trace.WithTimestamp(at)) //nolint:spancheck // the caller ends it
}

func attributes(j *nimbus.Job) []attribute.KeyValue {
	out := []attribute.KeyValue{
		attribute.String("nimbus.job.id", j.ID), attribute.String("nimbus.org.id", j.OrgID),
		attribute.String("nimbus.job.source", string(j.Source)), attribute.String("nimbus.job.result", string(j.Result)),
		attribute.String("nimbus.class.id", j.Class.ID()), attribute.String("nimbus.class", classLabel(j.Class)),
		attribute.Int("nimbus.job.attempts", j.AttemptCount),
	}
	for key, value := range map[string]string{
		"nimbus.host.id": j.HostID, "nimbus.attempt.id": j.AttemptID, "nimbus.job.reason": string(j.Reason.Code),
		"vcs.repository.name": j.Repo, "vcs.ref.head.revision": j.GitHub.HeadSHA, "vcs.ref.head.name": j.GitHub.HeadBranch,
		"cicd.pipeline.name": j.GitHub.WorkflowName, "cicd.pipeline.run.url.full": j.GitHub.HTMLURL,
	} {
		if value != "" {
			out = append(out, attribute.String(key, value))
		}
	}
	return out
}
