package otlp_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/http"
	"runtime"
	"strings"
	"testing"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/telemetry/otlp"
)

// inBoth is a message in both encodings. In JSON the ids of spanOf are in hex.
func inBoth(t *testing.T, m proto.Message) map[string][]byte {
	t.Helper()
	binary, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	text, err := protojson.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range [][]byte{bytes.Repeat([]byte{1}, 16), bytes.Repeat([]byte{2}, 8)} {
		text = bytes.ReplaceAll(text, []byte(base64.StdEncoding.EncodeToString(id)), []byte(hex.EncodeToString(id)))
	}
	return map[string][]byte{binaryType: binary, jsonType: text}
}

func refusedWith(t *testing.T, what string, r otlp.Request, status int) {
	t.Helper()
	_, err := otlp.Decode(r)
	var refusal *otlp.RefusalError
	if !errors.As(err, &refusal) || refusal.Status != status || refusal.Message == "" {
		t.Errorf("%s: got %v, want %d", what, err, status)
	}
}

// TestBombs: a body of 4 MiB that unpacks to a thousand times as much is refused in
// both encodings, for little more memory than it may unpack to.
func TestBombs(t *testing.T) { //nolint:paralleltest // others would use memory meanwhile
	part := zip(t, make([]byte, 8<<20))
	bomb := bytes.Repeat(part, otlp.MaxBody/len(part)) // which is one body of gzip, too
	for _, contentType := range []string{binaryType, jsonType} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		refusedWith(t, contentType, otlp.Request{Signal: nimbus.SignalTraces, ContentType: contentType, Encoding: "gzip", Body: bomb}, http.StatusRequestEntityTooLarge)
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > 64<<20 {
			t.Errorf("%s: %d MiB of memory for a body of %d bytes", contentType, used>>20, len(bomb))
		}
	}
	// Messages of two bytes, as many as unpack.
	spans := bytes.Repeat([]byte{0x0a, 0}, 3<<20)
	refusedWith(t, "many messages", otlp.Request{Signal: nimbus.SignalTraces, ContentType: binaryType, Encoding: "gzip", Body: zip(t, spans)}, http.StatusRequestEntityTooLarge)
	objects := `{"resourceSpans":[` + strings.Repeat("{},", 2<<20) + `{}]}`
	refusedWith(t, "many objects", otlp.Request{Signal: nimbus.SignalTraces, ContentType: jsonType, Encoding: "gzip", Body: zip(t, []byte(objects))}, http.StatusRequestEntityTooLarge)
}

// TestDeepValues: values in values are bounded, whatever they are made of, in both
// encodings and all signals.
func TestDeepValues(t *testing.T) {
	t.Parallel()
	inMaps := func(depth int) *commonpb.KeyValue {
		kv := text("leaf", "v")
		for range depth {
			kv = &commonpb.KeyValue{Key: "k", Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_KvlistValue{KvlistValue: &commonpb.KeyValueList{Values: []*commonpb.KeyValue{kv}}}}}
		}
		return kv
	}
	for what, deep := range map[string]func(int) *commonpb.KeyValue{"lists": nested, "maps": inMaps} {
		for signal, of := range map[nimbus.Signal]func(*commonpb.KeyValue) proto.Message{
			nimbus.SignalTraces: func(kv *commonpb.KeyValue) proto.Message {
				return &tracepb.TracesData{ResourceSpans: []*tracepb.ResourceSpans{{ScopeSpans: []*tracepb.ScopeSpans{{Spans: []*tracepb.Span{spanOf(kv)}}}}}}
			},
			nimbus.SignalLogs: func(kv *commonpb.KeyValue) proto.Message {
				return &logspb.LogsData{ResourceLogs: []*logspb.ResourceLogs{{ScopeLogs: []*logspb.ScopeLogs{{LogRecords: []*logspb.LogRecord{{TimeUnixNano: 1, Body: kv.GetValue()}}}}}}}
			},
			nimbus.SignalMetrics: func(kv *commonpb.KeyValue) proto.Message {
				return &metricspb.MetricsData{ResourceMetrics: []*metricspb.ResourceMetrics{{Resource: &resourcepb.Resource{Attributes: []*commonpb.KeyValue{kv}}}}}
			},
		} {
			for contentType, body := range inBoth(t, of(deep(400))) {
				refusedWith(t, what+" of "+contentType, otlp.Request{Signal: signal, ContentType: contentType, Body: body}, http.StatusBadRequest)
			}
			for contentType, body := range inBoth(t, of(deep(10))) {
				decode(t, signal, contentType, body)
			}
		}
	}
}

// TestHugeAttributes: texts, names, bytes and the number of attributes are cut, wherever
// these can be, and the same in both encodings.
func TestHugeAttributes(t *testing.T) {
	t.Parallel()
	huge := func() []*commonpb.KeyValue {
		all := []*commonpb.KeyValue{
			text("text", strings.Repeat("v", 200<<10)), text(strings.Repeat("k", 200<<10), "of a long name"),
			{Key: "bytes", Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_BytesValue{BytesValue: make([]byte, 200<<10)}}},
		}
		for range 400 {
			all = append(all, text("more", "v"))
		}
		return all
	}
	span := spanOf(huge()...)
	span.Events = []*tracepb.Span_Event{{Name: strings.Repeat("e", 200<<10), Attributes: huge()}}
	span.Links = []*tracepb.Span_Link{{TraceId: span.GetTraceId(), SpanId: span.GetSpanId(), Attributes: huge()}}
	data := &tracepb.TracesData{ResourceSpans: []*tracepb.ResourceSpans{{Resource: &resourcepb.Resource{Attributes: huge()}, ScopeSpans: []*tracepb.ScopeSpans{{
		Scope: &commonpb.InstrumentationScope{Attributes: huge()}, Spans: []*tracepb.Span{span}}}}}}
	var stored []nimbus.TelemetryBatch
	for contentType, body := range inBoth(t, data) {
		of, b := kept(t, decode(t, nimbus.SignalTraces, contentType, body))
		stored = append(stored, of)
		raw, err := b.Request()
		if err != nil {
			t.Fatal(err)
		}
		var back tracepb.TracesData
		if err := proto.Unmarshal(raw, &back); err != nil {
			t.Fatal(err)
		}
		r := back.GetResourceSpans()[0]
		s := r.GetScopeSpans()[0].GetSpans()[0]
		for what, all := range map[string][]*commonpb.KeyValue{
			"resource": r.GetResource().GetAttributes(), "scope": r.GetScopeSpans()[0].GetScope().GetAttributes(), "span": s.GetAttributes(),
			"event": s.GetEvents()[0].GetAttributes(), "link": s.GetLinks()[0].GetAttributes(),
		} {
			if len(all) != 256 {
				t.Errorf("%s: %d attributes of a %s", contentType, len(all), what)
			}
			for _, kv := range all {
				if max(len(kv.GetKey()), len(kv.GetValue().GetStringValue()), len(kv.GetValue().GetBytesValue())) > 64<<10 {
					t.Errorf("%s: attribute %.20q of a %s is longer than it may be", contentType, kv.GetKey(), what)
				}
			}
		}
		if s.GetDroppedAttributesCount() != 147 || len(s.GetEvents()[0].GetName()) > 64<<10 {
			t.Errorf("%s: %d attributes are told as dropped", contentType, s.GetDroppedAttributesCount())
		}
	}
	if !bytes.Equal(stored[0].Data, stored[1].Data) {
		t.Error("the encodings differ")
	}
}

// TestWrongLengths: what real clients send, cut anywhere or with a length that is not
// true, is refused or is what is left of it; a part of JSON is none.
func TestWrongLengths(t *testing.T) {
	t.Parallel()
	for name, contentType := range map[string]string{"eval2otel-traces-04.pb": binaryType, "promptfoo-otel-traces-01.json": jsonType} {
		whole := bytes.TrimSpace(file(t, name))
		for n := 1; n < len(whole); n += 1 + len(whole)/100 {
			if took(t, otlp.Request{Signal: nimbus.SignalTraces, ContentType: contentType, Body: whole[:n]}) && contentType == jsonType {
				t.Errorf("%s: its first %d bytes are taken", name, n)
			}
		}
	}
	whole := file(t, "eval2otel-traces-04.pb")
	for i := 0; i < len(whole); i += 7 {
		for _, wrong := range []byte{0, whole[i] + 1, 0x7f, 0xff} {
			changed := bytes.Clone(whole)
			changed[i] = wrong
			took(t, otlp.Request{Signal: nimbus.SignalTraces, ContentType: binaryType, Body: changed})
		}
	}
}

// took tells whether a request is taken. It is then one that can be kept and opened;
// else its sender hears that it is to blame.
func took(t *testing.T, r otlp.Request) bool {
	t.Helper()
	b, err := otlp.Decode(r)
	if err != nil {
		if refusal := otlp.AsRefusal(err); refusal.Status < 400 || refusal.Status > 499 {
			t.Errorf("refused with %v", err)
		}
		return false
	}
	stored, some, err := b.Encode()
	if err != nil {
		if refusal := otlp.AsRefusal(err); refusal.Status < 400 || refusal.Status > 499 {
			t.Errorf("not kept: %v", err)
		}
		return false
	}
	if !some {
		return true
	}
	back, err := otlp.Open(stored.Signal, stored.Data)
	if err != nil {
		t.Errorf("what was kept can't be opened: %v", err)
		return true
	}
	for _, s := range back.Spans() {
		if len(s.TraceID) != 32 || len(s.SpanID) != 16 {
			t.Errorf("a span with the ids %q and %q", s.TraceID, s.SpanID)
		}
	}
	_, _ = back.Logs(), back.Points()
	return true
}

// FuzzDecode: whatever a job sends, it is refused for a reason or can be kept and read.
func FuzzDecode(f *testing.F) {
	signals := []nimbus.Signal{nimbus.SignalTraces, nimbus.SignalLogs, nimbus.SignalMetrics}
	// Short ones: what real clients send would be made smaller for most of the time.
	raw, err := proto.Marshal(&tracepb.TracesData{ResourceSpans: []*tracepb.ResourceSpans{{ScopeSpans: []*tracepb.ScopeSpans{{Spans: []*tracepb.Span{spanOf(text("k", "v"))}}}}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint8(0), false, raw)
	f.Add(uint8(0), true, []byte(`{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"`+strings.Repeat("01", 16)+`","spanId":"`+strings.Repeat("02", 8)+`","name":"s"}]}]}]}`))
	f.Add(uint8(1), true, []byte(`{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":"1","body":{"intValue":1}}]}]}]}`))
	f.Add(uint8(2), true, []byte(`{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"a","gauge":{"dataPoints":[{"asInt":3}]}}]}]}]}`))
	f.Fuzz(func(t *testing.T, signal uint8, json bool, body []byte) {
		contentType := binaryType
		if json {
			contentType = jsonType
		}
		took(t, otlp.Request{Signal: signals[int(signal)%len(signals)], ContentType: contentType, Body: body})
	})
}
