package telemetry

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/traces"
)

// record makes the spans of a job that ended, as they are shown of it too.
func record(tracer trace.Tracer, j *nimbus.Job) {
	life := traces.Life(j)
	if len(life) == 0 {
		return
	}
	ctx, job := start(context.Background(), tracer, j, life[0])
	job.SetAttributes(attribute.String("nimbus.class", classLabel(j.Class)))
	for _, s := range life[1:] {
		_, span := start(ctx, tracer, j, s)
		span.End(trace.WithTimestamp(s.End))
	}
	job.End(trace.WithTimestamp(life[0].End))
}

func start(ctx context.Context, tracer trace.Tracer, j *nimbus.Job, s nimbus.Span) (context.Context, trace.Span) {
	kind := trace.SpanKindInternal
	if s.Kind == "server" {
		kind = trace.SpanKindServer
	}
	ctx, span := tracer.Start(context.WithValue(ctx, spanKey{}, spanOf{j.ID, s.Name}), s.Name, trace.WithTimestamp(s.Start), trace.WithSpanKind(kind))
	for key, value := range s.Attributes {
		span.SetAttributes(attribute.String(key, value))
	}
	if s.Status == "error" {
		span.SetStatus(codes.Error, s.StatusMessage)
	}
	for _, e := range s.Events {
		span.AddEvent(e.Name, trace.WithTimestamp(e.At))
	}
	return ctx, span
}
