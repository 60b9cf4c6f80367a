package otlp

import (
	"bytes"
	"crypto/sha256"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/nimbus-ci/nimbus"
)

// Attribute says something of who sent a batch.
type Attribute struct{ Key, Value string }

// reserved are the names that nobody but Nimbus gives a value: whose telemetry it
// is would else be the job's word.
var reserved = []string{"nimbus.", "cicd.", "vcs."}

func isReserved(key string) bool {
	return slices.ContainsFunc(reserved, func(prefix string) bool { return strings.HasPrefix(key, prefix) })
}

// Bounds of what is stamped on one resource, for which Open has room.
const (
	maxStamps     = 16
	maxStamp      = 512                          // bytes of a value
	stampMessages = 1 + 2*maxStamps              // the resource, where there was none; a pair and its value
	stampBytes    = maxStamps * (maxStamp + 128) // with names, and what all takes beside its text
)

// Stamp says on each resource whose it is, and nothing that its sender said of
// that stays.
func (b *Batch) Stamp(whose []Attribute) {
	whose = slices.DeleteFunc(slices.Clone(whose), func(a Attribute) bool { return a.Value == "" })
	whose = whose[:min(len(whose), maxStamps)]
	for _, resource := range b.resources() {
		theirs := slices.DeleteFunc(resource.Attributes, func(a *commonpb.KeyValue) bool { return isReserved(a.GetKey()) })
		// Ours come first: where there are too many, the last ones go.
		all := make([]*commonpb.KeyValue, 0, len(whose)+len(theirs))
		for _, a := range whose {
			all = append(all, &commonpb.KeyValue{Key: a.Key, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: cut(a.Value, maxStamp)}}})
		}
		all = append(all, theirs...)
		resource.Attributes = all
	}
}

// Received says when log records came of which their sender has not said when they
// were, or were seen: who reads them can tell no better.
func (b *Batch) Received(now time.Time) {
	d, _ := b.data.(*logspb.LogsData)
	for _, r := range d.GetResourceLogs() {
		for _, s := range r.GetScopeLogs() {
			for _, l := range s.GetLogRecords() {
				if timeOf(recordNanos(l)).IsZero() {
					l.TimeUnixNano, l.ObservedTimeUnixNano = 0, uint64(now.UnixNano())
				}
			}
		}
	}
}

func (b *Batch) countResources() int {
	switch d := b.data.(type) {
	case *tracepb.TracesData:
		return len(d.GetResourceSpans())
	case *logspb.LogsData:
		return len(d.GetResourceLogs())
	case *metricspb.MetricsData:
		return len(d.GetResourceMetrics())
	}
	return 0
}

// resources are those of a batch; where one is missing it is made.
func (b *Batch) resources() (all []*resourcepb.Resource) {
	add := func(r **resourcepb.Resource) {
		if *r == nil {
			*r = &resourcepb.Resource{}
		}
		all = append(all, *r)
	}
	switch d := b.data.(type) {
	case *tracepb.TracesData:
		for _, r := range d.GetResourceSpans() {
			add(&r.Resource)
		}
	case *logspb.LogsData:
		for _, r := range d.GetResourceLogs() {
			add(&r.Resource)
		}
	case *metricspb.MetricsData:
		for _, r := range d.GetResourceMetrics() {
			add(&r.Resource)
		}
	}
	return all
}

// Rewrite has each text of a batch, names and values alike, go through f.
func (b *Batch) Rewrite(f func(string) string) { rewrite(b.data.ProtoReflect(), f) }

func rewrite(m protoreflect.Message, f func(string) string) {
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch kind := field.Kind(); {
		case field.IsList() && kind == protoreflect.MessageKind:
			for i, list := 0, v.List(); i < list.Len(); i++ {
				rewrite(list.Get(i).Message(), f)
			}
		case field.IsList():
			for i, list := 0, v.List(); kind == protoreflect.StringKind && i < list.Len(); i++ {
				list.Set(i, protoreflect.ValueOfString(f(list.Get(i).String())))
			}
		case kind == protoreflect.MessageKind:
			rewrite(v.Message(), f)
		case kind == protoreflect.StringKind:
			if text := f(v.String()); text != v.String() {
				m.Set(field, protoreflect.ValueOfString(text))
			}
		case kind == protoreflect.BytesKind && field.Name() == "bytes_value":
			m.Set(field, protoreflect.ValueOfBytes([]byte(f(string(v.Bytes())))))
		}
		return true
	})
}

// trim cuts texts and lists of attributes that are too long.
func (b *Batch) trim() {
	b.Rewrite(func(text string) string { return cut(text, maxValue) })
	trimAttributes(b.data.ProtoReflect())
}

// cut makes a text no longer than it may be, with a sign that it was.
func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	const sign = "…"
	n := most - len(sign)
	for back := 0; back < utf8.UTFMax && !utf8.RuneStart(text[n]); back++ { // of what is no text, the bytes stay
		n--
	}
	return text[:n] + sign
}

func trimAttributes(m protoreflect.Message) {
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if field.Kind() != protoreflect.MessageKind || field.Message().FullName() == "opentelemetry.proto.common.v1.AnyValue" {
			return true
		}
		if !field.IsList() {
			trimAttributes(v.Message())
			return true
		}
		list := v.List()
		if field.Name() == "attributes" {
			if more := list.Len() - maxKeyed; more > 0 {
				list.Truncate(maxKeyed)
				if dropped := m.Descriptor().Fields().ByName("dropped_attributes_count"); dropped != nil {
					m.Set(dropped, protoreflect.ValueOfUint32(uint32(min(m.Get(dropped).Uint()+uint64(more), math.MaxUint32))))
				}
			}
			return true
		}
		for i := range list.Len() {
			trimAttributes(list.Get(i).Message())
		}
		return true
	})
}

// Lengths of ids.
const (
	traceIDBytes = 16
	spanIDBytes  = 8
)

func isID(id []byte, length int) bool {
	return len(id) == length && slices.ContainsFunc(id, func(b byte) bool { return b != 0 })
}

func mayBeID(id []byte, length int) bool { return len(id) == 0 || len(id) == length }

// check drops what has ids of no length that an id has.
func (b *Batch) check() {
	drop := func(bad bool) bool {
		if bad {
			b.Rejected++
			b.Why = "ids of spans have 8 bytes, those of traces 16, not all are 0, and in JSON they are in hex"
		}
		return bad
	}
	switch d := b.data.(type) {
	case *tracepb.TracesData:
		for _, r := range d.GetResourceSpans() {
			for _, s := range r.GetScopeSpans() {
				s.Spans = slices.DeleteFunc(s.Spans, func(span *tracepb.Span) bool {
					span.Links = slices.DeleteFunc(span.Links, func(l *tracepb.Span_Link) bool {
						return !isID(l.GetTraceId(), traceIDBytes) || !isID(l.GetSpanId(), spanIDBytes)
					})
					return drop(!isID(span.GetTraceId(), traceIDBytes) || !isID(span.GetSpanId(), spanIDBytes) || !mayBeID(span.GetParentSpanId(), spanIDBytes))
				})
			}
		}
	case *logspb.LogsData:
		for _, r := range d.GetResourceLogs() {
			for _, s := range r.GetScopeLogs() {
				s.LogRecords = slices.DeleteFunc(s.LogRecords, func(l *logspb.LogRecord) bool {
					return drop(!mayBeID(l.GetTraceId(), traceIDBytes) || !mayBeID(l.GetSpanId(), spanIDBytes))
				})
			}
		}
	}
}

// Encode makes a batch to be kept, without a number yet. ok is false where there
// is nothing in it. What is too long is cut only here: a secret that is to be hidden
// first would else be cut, and what is left of it be kept. Its error is a
// *RefusalError.
func (b *Batch) Encode() (out nimbus.TelemetryBatch, ok bool, err error) {
	out = nimbus.TelemetryBatch{Signal: b.Signal, Items: b.items()}
	if out.Items == 0 {
		return out, false, nil
	}
	b.trim()
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(b.data)
	if err != nil {
		return out, false, refuse(http.StatusBadRequest, "it can't be kept: %v", err)
	}
	if len(raw) > maxOpened { // numbers of JSON may take more here
		return out, false, refuse(http.StatusRequestEntityTooLarge, "the body takes more than %d bytes: send smaller batches", maxOpened)
	}
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(1<<20))
	if err != nil {
		return out, false, refuse(http.StatusServiceUnavailable, "it can't be packed: %v", err)
	}
	if out.Data = z.EncodeAll(raw, nil); len(out.Data) > nimbus.MaxTelemetryBatch {
		return out, false, refuse(http.StatusRequestEntityTooLarge, "the body packs to more than %d bytes: send smaller batches", nimbus.MaxTelemetryBatch)
	}
	return out, true, nil
}

// Request is the body of a request with it, in protobuf.
func (b *Batch) Request() ([]byte, error) {
	raw, err := proto.Marshal(b.data)
	if err != nil {
		return nil, nimbus.Errorf(nimbus.CodeInternal, "encode telemetry: %w", err)
	}
	return raw, nil
}

// Confine gives each trace of a batch but the job's own an id that only the job's
// spans can have: it keeps spans together, and what a job sends out of the traces
// of others.
func (b *Batch) Confine(jobID string) {
	own := nimbus.TraceID(jobID)
	confined := func(id []byte) []byte {
		if len(id) == 0 || bytes.Equal(id, own[:]) {
			return id
		}
		sum := sha256.Sum256(append([]byte(jobID+" "), id...))
		return sum[:traceIDBytes]
	}
	switch d := b.data.(type) {
	case *tracepb.TracesData:
		for _, r := range d.GetResourceSpans() {
			for _, s := range r.GetScopeSpans() {
				for _, span := range s.GetSpans() {
					span.TraceId = confined(span.GetTraceId())
					for _, l := range span.GetLinks() {
						l.TraceId = confined(l.GetTraceId())
					}
				}
			}
		}
	case *logspb.LogsData:
		for _, r := range d.GetResourceLogs() {
			for _, s := range r.GetScopeLogs() {
				for _, l := range s.GetLogRecords() {
					l.TraceId = confined(l.GetTraceId())
				}
			}
		}
	case *metricspb.MetricsData:
		exemplars(d.ProtoReflect(), func(e *metricspb.Exemplar) { e.TraceId = confined(e.GetTraceId()) })
	}
}

// exemplars calls f with each example of a point.
func exemplars(m protoreflect.Message, f func(*metricspb.Exemplar)) {
	if e, ok := m.Interface().(*metricspb.Exemplar); ok {
		f(e)
		return
	}
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case field.Kind() != protoreflect.MessageKind:
		case field.IsList():
			for i, list := 0, v.List(); i < list.Len(); i++ {
				exemplars(list.Get(i).Message(), f)
			}
		default:
			exemplars(v.Message(), f)
		}
		return true
	})
}

// Bounds of a batch that was kept: those of a request, and room for what was stamped
// on it. Numbers of JSON may take four times as much in protobuf.
const (
	maxOpened         = 4*maxUnpacked + maxResources*stampBytes
	maxOpenedMessages = maxMessages + maxResources*stampMessages
)

// Cost is about how much memory it took to open a batch.
func (b *Batch) Cost() int {
	const message = 256 // of one, with what leads to it
	return b.unpacked + b.messages*message
}

// Open reads what Encode made, wherever it was since.
func Open(s nimbus.Signal, data []byte) (*Batch, error) {
	b, err := newBatch(s)
	if err != nil {
		return nil, err
	}
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxOpened))
	if err != nil {
		return nil, nimbus.Errorf(nimbus.CodeInternal, "open a batch of telemetry: %w", err)
	}
	defer z.Close()
	raw, err := z.DecodeAll(data, nil)
	if err != nil {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "unpack a batch of telemetry: %w", err)
	}
	b.unpacked = len(raw)
	if err := b.unmarshal(raw, maxOpenedMessages); err != nil {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "open a batch of telemetry: %w", err)
	}
	return b, nil
}

// items is how many spans, records or points it has.
func (b *Batch) items() (n int) {
	switch d := b.data.(type) {
	case *tracepb.TracesData:
		for _, r := range d.GetResourceSpans() {
			for _, s := range r.GetScopeSpans() {
				n += len(s.GetSpans())
			}
		}
	case *logspb.LogsData:
		for _, r := range d.GetResourceLogs() {
			for _, s := range r.GetScopeLogs() {
				n += len(s.GetLogRecords())
			}
		}
	case *metricspb.MetricsData:
		n = len(b.Points())
	}
	return n
}

func recordNanos(l *logspb.LogRecord) uint64 {
	if at := l.GetTimeUnixNano(); at != 0 {
		return at
	}
	return l.GetObservedTimeUnixNano()
}

// timeOf is zero for what is no time.
func timeOf(nanos uint64) time.Time {
	if nanos == 0 || nanos > math.MaxInt64 {
		return time.Time{}
	}
	return time.Unix(0, int64(nanos)).UTC()
}
