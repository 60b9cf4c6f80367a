package otlp

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"math"
	"strconv"
	"strings"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/nimbus-ci/nimbus"
)

// serviceName is the attribute of a resource that says which program it is.
const serviceName = "service.name"

// Spans are those of a batch of traces.
func (b *Batch) Spans() (all []nimbus.Span) {
	d, _ := b.data.(*tracepb.TracesData)
	for _, r := range d.GetResourceSpans() {
		service := serviceOf(r.GetResource())
		for _, scope := range r.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				span := nimbus.Span{
					TraceID: hex.EncodeToString(s.GetTraceId()), SpanID: hex.EncodeToString(s.GetSpanId()), ParentID: hex.EncodeToString(s.GetParentSpanId()),
					Name: s.GetName(), Kind: kindOf(s.GetKind()), Start: timeOf(s.GetStartTimeUnixNano()), End: timeOf(s.GetEndTimeUnixNano()),
					StatusMessage: s.GetStatus().GetMessage(), Service: service, Scope: scope.GetScope().GetName(), Attributes: attributesOf(s.GetAttributes()),
				}
				switch s.GetStatus().GetCode() {
				case tracepb.Status_STATUS_CODE_OK:
					span.Status = "ok"
				case tracepb.Status_STATUS_CODE_ERROR:
					span.Status = "error"
				}
				for _, e := range s.GetEvents() {
					span.Events = append(span.Events, nimbus.SpanEvent{Name: e.GetName(), At: timeOf(e.GetTimeUnixNano()), Attributes: attributesOf(e.GetAttributes())})
				}
				all = append(all, span)
			}
		}
	}
	return all
}

func kindOf(k tracepb.Span_SpanKind) string {
	switch k {
	case tracepb.Span_SPAN_KIND_SERVER:
		return "server"
	case tracepb.Span_SPAN_KIND_CLIENT:
		return "client"
	case tracepb.Span_SPAN_KIND_PRODUCER:
		return "producer"
	case tracepb.Span_SPAN_KIND_CONSUMER:
		return "consumer"
	}
	return "internal"
}

// Logs are the records of a batch of logs.
func (b *Batch) Logs() (all []nimbus.TelemetryLog) {
	d, _ := b.data.(*logspb.LogsData)
	for _, r := range d.GetResourceLogs() {
		service := serviceOf(r.GetResource())
		for _, scope := range r.GetScopeLogs() {
			for _, l := range scope.GetLogRecords() {
				severity := l.GetSeverityText()
				if n := l.GetSeverityNumber(); severity == "" && n != 0 {
					severity = strings.TrimPrefix(n.String(), "SEVERITY_NUMBER_")
				}
				all = append(all, nimbus.TelemetryLog{
					At: timeOf(recordNanos(l)), Severity: severity, EventName: l.GetEventName(), Body: textOf(l.GetBody()),
					TraceID: hex.EncodeToString(l.GetTraceId()), SpanID: hex.EncodeToString(l.GetSpanId()), Service: service, Attributes: attributesOf(l.GetAttributes()),
				})
			}
		}
	}
	return all
}

// Points are those of a batch of metrics.
func (b *Batch) Points() (all []nimbus.MetricPoint) {
	d, _ := b.data.(*metricspb.MetricsData)
	for _, r := range d.GetResourceMetrics() {
		service := serviceOf(r.GetResource())
		for _, scope := range r.GetScopeMetrics() {
			for _, m := range scope.GetMetrics() {
				for _, p := range pointsOf(m) {
					p.Name, p.Unit, p.Service = m.GetName(), m.GetUnit(), service
					all = append(all, p)
				}
			}
		}
	}
	return all
}

func pointsOf(m *metricspb.Metric) (all []nimbus.MetricPoint) {
	add := func(kind string, nanos uint64, value float64, count uint64, attributes []*commonpb.KeyValue) {
		all = append(all, nimbus.MetricPoint{At: timeOf(nanos), Type: kind, Value: value, Count: int64(min(count, math.MaxInt64)), Attributes: attributesOf(attributes)})
	}
	number := func(kind string, points []*metricspb.NumberDataPoint) {
		for _, p := range points {
			n, whole := p.GetValue().(*metricspb.NumberDataPoint_AsInt)
			if !whole {
				add(kind, p.GetTimeUnixNano(), p.GetAsDouble(), 0, p.GetAttributes())
				continue
			}
			add(kind, p.GetTimeUnixNano(), float64(n.AsInt), 0, p.GetAttributes())
			exact := n.AsInt // a pointer into the batch would keep all of it
			all[len(all)-1].Int = &exact
		}
	}
	switch d := m.GetData().(type) {
	case *metricspb.Metric_Gauge:
		number("gauge", d.Gauge.GetDataPoints())
	case *metricspb.Metric_Sum:
		number("sum", d.Sum.GetDataPoints())
	case *metricspb.Metric_Histogram:
		for _, p := range d.Histogram.GetDataPoints() {
			add("histogram", p.GetTimeUnixNano(), p.GetSum(), p.GetCount(), p.GetAttributes())
		}
	case *metricspb.Metric_ExponentialHistogram:
		for _, p := range d.ExponentialHistogram.GetDataPoints() {
			add("exponential_histogram", p.GetTimeUnixNano(), p.GetSum(), p.GetCount(), p.GetAttributes())
		}
	case *metricspb.Metric_Summary:
		for _, p := range d.Summary.GetDataPoints() {
			add("summary", p.GetTimeUnixNano(), p.GetSum(), p.GetCount(), p.GetAttributes())
		}
	}
	return all
}

func serviceOf(r *resourcepb.Resource) string {
	for _, a := range r.GetAttributes() {
		if a.GetKey() == serviceName {
			return textOf(a.GetValue())
		}
	}
	return ""
}

func attributesOf(list []*commonpb.KeyValue) map[string]string {
	if len(list) == 0 {
		return nil
	}
	all := make(map[string]string, len(list))
	for _, a := range list {
		all[a.GetKey()] = textOf(a.GetValue())
	}
	return all
}

// textOf is a value as people read it: lists and maps as JSON.
func textOf(v *commonpb.AnyValue) string {
	switch v := v.GetValue().(type) {
	case *commonpb.AnyValue_StringValue:
		return v.StringValue
	case *commonpb.AnyValue_BoolValue:
		return strconv.FormatBool(v.BoolValue)
	case *commonpb.AnyValue_IntValue:
		return strconv.FormatInt(v.IntValue, 10)
	case *commonpb.AnyValue_DoubleValue:
		return strconv.FormatFloat(v.DoubleValue, 'g', -1, 64)
	case *commonpb.AnyValue_BytesValue:
		return base64.StdEncoding.EncodeToString(v.BytesValue)
	case *commonpb.AnyValue_ArrayValue, *commonpb.AnyValue_KvlistValue:
		text, err := json.Marshal(plain(&commonpb.AnyValue{Value: v}))
		if err != nil {
			return "" // no value that plain makes is none of JSON
		}
		return string(text)
	}
	return ""
}

// plain is a value for JSON.
func plain(v *commonpb.AnyValue) any {
	switch x := v.GetValue().(type) {
	case *commonpb.AnyValue_ArrayValue:
		list := make([]any, 0, len(x.ArrayValue.GetValues()))
		for _, e := range x.ArrayValue.GetValues() {
			list = append(list, plain(e))
		}
		return list
	case *commonpb.AnyValue_KvlistValue:
		all := make(map[string]any, len(x.KvlistValue.GetValues()))
		for _, e := range x.KvlistValue.GetValues() {
			all[e.GetKey()] = plain(e.GetValue())
		}
		return all
	case *commonpb.AnyValue_IntValue:
		return x.IntValue
	case *commonpb.AnyValue_BoolValue:
		return x.BoolValue
	case nil:
		return nil
	}
	return textOf(v) // a number of its own, as NaN, is none of JSON
}
