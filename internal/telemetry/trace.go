package telemetry

import (
	"context"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/nimbus-ci/nimbus"
)

// Bounds of tracing. At each, what is new is dropped and counted or told.
const (
	endedMost     = 4096 // jobs whose trace is still to be made
	spansMost     = 8192 // spans that wait to be sent
	spansTogether = 512
	exportTimeout = 10 * time.Second
	readTimeout   = 5 * time.Second // of a job
	flushTimeout  = 5 * time.Second // at the end
)

// Jobs are read when they have ended.
type Jobs interface {
	Job(ctx context.Context, orgID, jobID string) (nimbus.Job, error)
}

// Tracer sends a trace of each job that ended. All of it is made from the job's
// timeline then: while jobs run there is nothing to keep, and it does not matter
// which replica saw what. It implements lifecycle.Service.
type Tracer struct {
	jobs     Jobs
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
	ended    chan endedJob
	dropped  func()
	log      *slog.Logger
}

type endedJob struct{ orgID, jobID string }

// NewTracer returns a tracer that sends to the OTLP endpoint of a base URL, like
// http://collector:4318; what else there is to say, as headers with a token,
// comes from the standard's variables OTEL_EXPORTER_OTLP_*. Codes: invalid.
func NewTracer(ctx context.Context, endpoint, version string, jobs Jobs, m *Metrics, log *slog.Logger) (*Tracer, error) {
	base, err := otlpBase(endpoint)
	if err != nil {
		return nil, err
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(base.JoinPath(tracesPath).String()), otlptracehttp.WithTimeout(exportTimeout))
	if err != nil {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "traces can't be sent: %w", err)
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithSampler(sdktrace.AlwaysSample()),
		sdktrace.WithIDGenerator(ids{}),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "nimbus"), attribute.String("service.version", version))),
		sdktrace.WithBatcher(&toldExporter{SpanExporter: exporter, log: log}, sdktrace.WithMaxQueueSize(spansMost),
			sdktrace.WithMaxExportBatchSize(spansTogether), sdktrace.WithExportTimeout(exportTimeout)),
	)
	dropped := m.counter("nimbus_traces_dropped_total", "Jobs of which no trace was made because too many ended at once.")
	return &Tracer{jobs: jobs, provider: provider, tracer: provider.Tracer("github.com/nimbus-ci/nimbus"),
		ended: make(chan endedJob, endedMost), dropped: dropped.Inc, log: log}, nil
}

// Ended has the trace of a job sent. It returns at once.
func (t *Tracer) Ended(orgID, jobID string) {
	select {
	case t.ended <- endedJob{orgID, jobID}:
	default:
		t.dropped()
	}
}

// Name implements lifecycle.Service.
func (t *Tracer) Name() string { return "traces" }

// Run implements lifecycle.Service: it makes traces until ctx ends, and then
// sends what there is.
func (t *Tracer) Run(ctx context.Context, ready func()) error {
	ready()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case e := <-t.ended:
			t.trace(ctx, e)
		}
	}
	rest, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	defer cancel()
	for len(t.ended) > 0 && rest.Err() == nil {
		t.trace(rest, <-t.ended)
	}
	if err := t.provider.Shutdown(rest); err != nil {
		t.log.WarnContext(ctx, "the last traces were not sent", "error", err)
	}
	return nil
}

func (t *Tracer) trace(ctx context.Context, e endedJob) {
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
	defer cancel()
	j, err := t.jobs.Job(bounded, e.orgID, e.jobID)
	if err != nil {
		t.log.WarnContext(ctx, "a job can't be read for its trace", "job", e.jobID, "error", err)
		return
	}
	record(t.tracer, &j)
}

// ids makes the ids of spans from what they are of, so that a trace that is made
// twice is the same trace.
type ids struct{}

type spanKey struct{}

// spanOf is what the next span is of.
type spanOf struct{ jobID, name string }

// NewIDs implements sdktrace.IDGenerator.
func (g ids) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	of, _ := ctx.Value(spanKey{}).(spanOf)
	id := trace.TraceID(nimbus.TraceID(of.jobID))
	return id, g.NewSpanID(ctx, id)
}

// NewSpanID implements sdktrace.IDGenerator.
func (ids) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	of, _ := ctx.Value(spanKey{}).(spanOf)
	return trace.SpanID(nimbus.SpanID(of.jobID, of.name))
}

// toldExporter logs when spans can't be sent and when they can be again. The
// library would tell a handler that is global.
type toldExporter struct {
	sdktrace.SpanExporter
	log  *slog.Logger
	down bool // the batcher exports one batch at a time
}

// ExportSpans implements sdktrace.SpanExporter.
func (e *toldExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := e.SpanExporter.ExportSpans(ctx, spans)
	switch {
	case err != nil && !e.down:
		e.log.WarnContext(ctx, "traces can't be sent, they are dropped", "error", err)
	case err == nil && e.down:
		e.log.InfoContext(ctx, "traces are sent again")
	}
	e.down = err != nil
	return nil
}
