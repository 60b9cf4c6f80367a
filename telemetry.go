package nimbus

import (
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// Signal is a kind of what jobs tell by OTLP.
type Signal string

// The signals.
const (
	SignalTraces  Signal = "traces"
	SignalLogs    Signal = "logs"
	SignalMetrics Signal = "metrics"
)

// Valid tells whether it is one.
func (s Signal) Valid() bool { return s == SignalTraces || s == SignalLogs || s == SignalMetrics }

// Bounds of what is kept of jobs' telemetry.
const (
	// MaxTelemetryBatch is the most that one batch has, compressed.
	MaxTelemetryBatch = 4 << 20
	// MaxTelemetryItems is how many spans, records or points it has.
	MaxTelemetryItems = 200_000
	// MaxTelemetryBatches is how many come by one call.
	MaxTelemetryBatches = 500
)

// TelemetryBatch is what one request of a job's to its receiver of OTLP had.
type TelemetryBatch struct {
	Seq    int64 // grows within an attempt
	Signal Signal
	Items  int    // spans, log records or points
	Data   []byte // of OTLP, zstd
}

// Trace is what is known of a job's time.
type Trace struct {
	ID    string // of the job's own life
	Spans []Span // by when they began
	// Sent is how many spans the job's processes sent, and LeftOut how many of them
	// are not among Spans.
	Sent, LeftOut int64
	Logs, Points  int64 // that they sent as well
}

// Span is one of a trace. Ids are in hex.
type Span struct {
	TraceID, SpanID, ParentID string
	Name                      string
	Kind                      string // "internal", "server", "client", "producer", "consumer"
	Start, End                time.Time
	Status                    string // "", "ok", "error"
	StatusMessage             string
	Service, Scope            string
	Attributes                map[string]string
	Events                    []SpanEvent
	Lifecycle                 bool // of the job's life, not sent by its processes
	AttemptID                 string
}

// SpanEvent is what happened at one moment of a span.
type SpanEvent struct {
	Name       string
	At         time.Time
	Attributes map[string]string
}

// TelemetryLog is a log record of OTLP.
type TelemetryLog struct {
	At                        time.Time
	Severity, EventName, Body string
	TraceID, SpanID           string
	Service                   string
	Attributes                map[string]string
}

// MetricPoint is one value of a metric.
type MetricPoint struct {
	At               time.Time
	Name, Unit, Type string
	Value            float64 // of distributions, their sum
	Int              *int64  // the same, of one that was sent as an integer: Value may be rounded
	Count            int64   // of distributions
	Service          string
	Attributes       map[string]string
}

// TelemetryPage is a part of what a job sent beside its spans.
type TelemetryPage struct {
	Logs   []TelemetryLog
	Points []MetricPoint
	Next   string
}

// TraceID is the id of a job's trace: the first half of the SHA-256 of its id, so
// that whoever has the one finds the other.
func TraceID(jobID string) [16]byte {
	sum := sha256.Sum256([]byte(jobID))
	return [16]byte(sum[:16])
}

// SpanID is the id of a span of a job's life.
func SpanID(jobID, name string) [8]byte {
	sum := sha256.Sum256([]byte(jobID + " " + name))
	return [8]byte(sum[:8])
}

// RunSpan is the span of a job's life in which its processes run.
const RunSpan = "run"

// TraceParent has a job's processes join its trace, as the W3C has it.
func TraceParent(jobID string) string {
	trace, span := TraceID(jobID), SpanID(jobID, RunSpan)
	return "00-" + hex.EncodeToString(trace[:]) + "-" + hex.EncodeToString(span[:]) + "-01"
}
