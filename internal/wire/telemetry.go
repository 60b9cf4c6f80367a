package wire

import (
	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// TelemetryBatch makes a message.
func TelemetryBatch(b nimbus.TelemetryBatch) *nimbusv1.TelemetryBatch {
	return &nimbusv1.TelemetryBatch{Seq: b.Seq, Signal: string(b.Signal), Items: int32(b.Items), Data: b.Data}
}

// ToTelemetryBatch reads one.
func ToTelemetryBatch(m *nimbusv1.TelemetryBatch) nimbus.TelemetryBatch {
	return nimbus.TelemetryBatch{Seq: m.GetSeq(), Signal: nimbus.Signal(m.GetSignal()), Items: int(m.GetItems()), Data: m.GetData()}
}

// Trace makes a message.
func Trace(t nimbus.Trace) *nimbusv1.GetTraceResponse {
	out := &nimbusv1.GetTraceResponse{TraceId: t.ID, Sent: t.Sent, LeftOut: t.LeftOut, Logs: t.Logs, Points: t.Points}
	for _, s := range t.Spans {
		m := &nimbusv1.Span{TraceId: s.TraceID, SpanId: s.SpanID, ParentSpanId: s.ParentID, Name: s.Name, Kind: s.Kind, Start: Time(s.Start), End: Time(s.End),
			Status: s.Status, StatusMessage: s.StatusMessage, Service: s.Service, Scope: s.Scope, Attributes: s.Attributes, Lifecycle: s.Lifecycle, AttemptId: s.AttemptID}
		for _, e := range s.Events {
			m.Events = append(m.Events, &nimbusv1.SpanEvent{Name: e.Name, At: Time(e.At), Attributes: e.Attributes})
		}
		out.Spans = append(out.Spans, m)
	}
	return out
}

// ToTrace reads one.
func ToTrace(m *nimbusv1.GetTraceResponse) nimbus.Trace {
	t := nimbus.Trace{ID: m.GetTraceId(), Sent: m.GetSent(), LeftOut: m.GetLeftOut(), Logs: m.GetLogs(), Points: m.GetPoints()}
	for _, s := range m.GetSpans() {
		span := nimbus.Span{TraceID: s.GetTraceId(), SpanID: s.GetSpanId(), ParentID: s.GetParentSpanId(), Name: s.GetName(), Kind: s.GetKind(), Start: ToTime(s.GetStart()), End: ToTime(s.GetEnd()),
			Status: s.GetStatus(), StatusMessage: s.GetStatusMessage(), Service: s.GetService(), Scope: s.GetScope(), Attributes: s.GetAttributes(), Lifecycle: s.GetLifecycle(), AttemptID: s.GetAttemptId()}
		for _, e := range s.GetEvents() {
			span.Events = append(span.Events, nimbus.SpanEvent{Name: e.GetName(), At: ToTime(e.GetAt()), Attributes: e.GetAttributes()})
		}
		t.Spans = append(t.Spans, span)
	}
	return t
}

// TelemetryPage makes a message.
func TelemetryPage(p nimbus.TelemetryPage) *nimbusv1.ListTelemetryResponse {
	out := &nimbusv1.ListTelemetryResponse{NextPageToken: p.Next}
	for _, l := range p.Logs {
		out.Logs = append(out.Logs, &nimbusv1.TelemetryLog{At: Time(l.At), Severity: l.Severity, EventName: l.EventName, Body: l.Body, TraceId: l.TraceID, SpanId: l.SpanID,
			Service: l.Service, Attributes: l.Attributes})
	}
	for _, x := range p.Points {
		out.Points = append(out.Points, &nimbusv1.MetricPoint{At: Time(x.At), Name: x.Name, Unit: x.Unit, Type: x.Type, Value: x.Value, IntValue: x.Int, Count: x.Count, Service: x.Service, Attributes: x.Attributes})
	}
	return out
}

// ToTelemetryPage reads one.
func ToTelemetryPage(m *nimbusv1.ListTelemetryResponse) nimbus.TelemetryPage {
	p := nimbus.TelemetryPage{Next: m.GetNextPageToken()}
	for _, l := range m.GetLogs() {
		p.Logs = append(p.Logs, nimbus.TelemetryLog{At: ToTime(l.GetAt()), Severity: l.GetSeverity(), EventName: l.GetEventName(), Body: l.GetBody(), TraceID: l.GetTraceId(), SpanID: l.GetSpanId(),
			Service: l.GetService(), Attributes: l.GetAttributes()})
	}
	for _, x := range m.GetPoints() {
		p.Points = append(p.Points, nimbus.MetricPoint{At: ToTime(x.GetAt()), Name: x.GetName(), Unit: x.GetUnit(), Type: x.GetType(), Value: x.GetValue(), Int: x.IntValue, Count: x.GetCount(), Service: x.GetService(), Attributes: x.GetAttributes()})
	}
	return p
}
