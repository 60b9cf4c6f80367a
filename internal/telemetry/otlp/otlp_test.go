package otlp_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/telemetry/otlp"
)

const (
	binaryType = "application/x-protobuf"
	jsonType   = "application/json"
)

func file(t *testing.T, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func decode(t *testing.T, s nimbus.Signal, contentType string, body []byte) *otlp.Batch {
	t.Helper()
	b, err := otlp.Decode(otlp.Request{Signal: s, ContentType: contentType, Body: body})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// kept is a batch as it comes back from where it was kept.
func kept(t *testing.T, b *otlp.Batch) (nimbus.TelemetryBatch, *otlp.Batch) {
	t.Helper()
	stored, ok, err := b.Encode()
	if err != nil || !ok {
		t.Fatalf("encode: %v, %v", ok, err)
	}
	back, err := otlp.Open(stored.Signal, stored.Data)
	if err != nil {
		t.Fatal(err)
	}
	return stored, back
}

// TestRealTraces: what real clients send is there again, in both encodings, with the
// ids and the numbers that it had.
func TestRealTraces(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]struct {
		contentType, service string
		spans                int
	}{
		"promptfoo-otel-traces-01.json": {jsonType, "promptfoo", 23},
		"eval2otel-traces-02.json":      {jsonType, "", 3},
		"eval2otel-traces-04.pb":        {binaryType, "", 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			raw := file(t, name)
			stored, b := kept(t, decode(t, nimbus.SignalTraces, want.contentType, raw))
			spans := b.Spans()
			if len(spans) != want.spans || stored.Items != want.spans || want.service != "" && spans[0].Service != want.service {
				t.Fatalf("%d spans of %q, told as %d", len(spans), spans[0].Service, stored.Items)
			}
			for _, s := range spans {
				if len(s.TraceID) != 32 || len(s.SpanID) != 16 || s.End.Before(s.Start) || s.Start.Year() < 2025 {
					t.Errorf("span %+v", s)
				}
				hay := raw
				if want.contentType == binaryType {
					hay = []byte(hex.EncodeToString(raw))
				}
				for _, id := range []string{s.TraceID, s.SpanID, s.ParentID} {
					if !bytes.Contains(hay, []byte(id)) {
						t.Errorf("id %s was not sent", id)
					}
				}
			}
		})
	}
}

// TestScores: a score that is a whole number comes as an integer.
func TestScores(t *testing.T) {
	t.Parallel()
	_, b := kept(t, decode(t, nimbus.SignalLogs, jsonType, file(t, "semconv-event-logs-02.json")))
	logs := b.Logs()
	if len(logs) != 1 {
		t.Fatalf("%d records", len(logs))
	}
	l := logs[0]
	if l.EventName != "gen_ai.evaluation.result" || l.Attributes["gen_ai.evaluation.score.value"] != "1" || len(l.TraceID) != 32 || len(l.SpanID) != 16 || l.Body != "" || l.At.IsZero() {
		t.Errorf("%+v", l)
	}
}

// TestEncodingsAgree: the same message in JSON, in protobuf and in gzip.
func TestEncodingsAgree(t *testing.T) {
	t.Parallel()
	d := &tracepb.TracesData{ResourceSpans: []*tracepb.ResourceSpans{{
		Resource: &resourcepb.Resource{Attributes: []*commonpb.KeyValue{text("service.name", "a \"quoted\" \\ name")}},
		ScopeSpans: []*tracepb.ScopeSpans{{Spans: []*tracepb.Span{{TraceId: bytes.Repeat([]byte{0xab}, 16), SpanId: bytes.Repeat([]byte{0xcd}, 8), Name: "traceId",
			StartTimeUnixNano: 1_700_000_000_123_456_789, EndTimeUnixNano: 1_700_000_001_000_000_000, Attributes: []*commonpb.KeyValue{text("spanId", `"traceId":"zz"`)},
			Links: []*tracepb.Span_Link{{TraceId: bytes.Repeat([]byte{1}, 16), SpanId: bytes.Repeat([]byte{2}, 8)}}}}}},
	}}}
	raw, err := proto.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	spelled := `{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"a \"quoted\" \\ name"}}]},
		"scopeSpans":[{"spans":[{ "traceId" : "` + strings.Repeat("AB", 16) + `","spanId":"` + strings.Repeat("cd", 8) + `","parentSpanId":"","name":"traceId",
		"startTimeUnixNano":1700000000123456789,"endTimeUnixNano":"1700000001000000000","futureField":[[{"traceId":"00"}]],
		"attributes":[{"key":"spanId","value":{"stringValue":"\"traceId\":\"zz\""}}],
		"links":[{"traceId":"` + strings.Repeat("01", 16) + `","spanId":"` + strings.Repeat("02", 8) + `"}]}]}]}]}`
	one, _ := kept(t, decode(t, nimbus.SignalTraces, binaryType, raw))
	two, _ := kept(t, decode(t, nimbus.SignalTraces, jsonType+"; charset=utf-8", []byte(spelled)))
	zipped, err := otlp.Decode(otlp.Request{Signal: nimbus.SignalTraces, ContentType: binaryType, Encoding: "gzip", Body: zip(t, raw)})
	if err != nil {
		t.Fatal(err)
	}
	three, _ := kept(t, zipped)
	if !bytes.Equal(one.Data, two.Data) || !bytes.Equal(one.Data, three.Data) {
		t.Error("they differ")
	}
}

func text(key, value string) *commonpb.KeyValue {
	return &commonpb.KeyValue{Key: key, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: value}}}
}

func zip(t *testing.T, raw []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func spanOf(attributes ...*commonpb.KeyValue) *tracepb.Span {
	return &tracepb.Span{TraceId: bytes.Repeat([]byte{1}, 16), SpanId: bytes.Repeat([]byte{2}, 8), Name: "s", StartTimeUnixNano: 1, Attributes: attributes}
}

func traces(t *testing.T, spans ...*tracepb.Span) []byte {
	t.Helper()
	raw, err := proto.Marshal(&tracepb.TracesData{ResourceSpans: []*tracepb.ResourceSpans{{ScopeSpans: []*tracepb.ScopeSpans{{Spans: spans}}}}})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// nested is a value within values.
func nested(depth int) *commonpb.KeyValue {
	v := &commonpb.AnyValue{}
	for range depth {
		v = &commonpb.AnyValue{Value: &commonpb.AnyValue_ArrayValue{ArrayValue: &commonpb.ArrayValue{Values: []*commonpb.AnyValue{v}}}}
	}
	return &commonpb.KeyValue{Key: "deep", Value: v}
}

// TestHostile: what costs more than it may, or is no OTLP, is refused with a status
// that tells a client whether to try again.
func TestHostile(t *testing.T) {
	t.Parallel()
	deepJSON := func(open, shut string, n int) []byte {
		return []byte(`{"resourceSpans":` + strings.Repeat(open, n) + strings.Repeat(shut, n) + `}`)
	}
	empty := bytes.Repeat(protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), nil), 300_000)
	manySpans := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType),
		protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), empty))
	longer := binary.AppendUvarint(protowire.AppendTag(nil, 1, protowire.BytesType), 1<<40)
	for name, c := range map[string]struct {
		r      otlp.Request
		status int
	}{
		"no type":            {otlp.Request{Body: nil}, 415},
		"another type":       {otlp.Request{ContentType: "text/html"}, 415},
		"another encoding":   {otlp.Request{ContentType: jsonType, Encoding: "br"}, 415},
		"another signal":     {otlp.Request{Signal: "profiles", ContentType: jsonType}, 404},
		"a large body":       {otlp.Request{ContentType: jsonType, Body: make([]byte, otlp.MaxBody+1)}, 413},
		"a bomb":             {otlp.Request{ContentType: jsonType, Encoding: "gzip", Body: zip(t, make([]byte, 64<<20))}, 413},
		"half a zip":         {otlp.Request{ContentType: jsonType, Encoding: "gzip", Body: zip(t, []byte(`{}`))[:12]}, 400},
		"no zip":             {otlp.Request{ContentType: jsonType, Encoding: "gzip", Body: []byte("{}")}, 400},
		"no JSON":            {otlp.Request{ContentType: jsonType, Body: []byte(`{"resourceSpans":[`)}, 400},
		"half a string":      {otlp.Request{ContentType: jsonType, Body: []byte(`{"traceId":"`)}, 400},
		"half a quote":       {otlp.Request{ContentType: jsonType, Body: []byte(`{"traceId":"\`)}, 400},
		"deep lists":         {otlp.Request{ContentType: jsonType, Body: deepJSON("[", "]", 1_000_000)}, 400},
		"deep objects":       {otlp.Request{ContentType: jsonType, Body: deepJSON(`{"a":`, "}", 500_000)}, 400},
		"many objects":       {otlp.Request{ContentType: jsonType, Body: []byte(`{"resourceSpans":[` + strings.Repeat("{},", 300_000) + `{}]}`)}, 413},
		"deep values":        {otlp.Request{ContentType: binaryType, Body: traces(t, spanOf(nested(200)))}, 400},
		"many empty spans":   {otlp.Request{ContentType: binaryType, Body: manySpans}, 413},
		"a wrong length":     {otlp.Request{ContentType: binaryType, Body: longer}, 400},
		"no protobuf":        {otlp.Request{ContentType: binaryType, Body: []byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")}, 400},
		"no UTF-8":           {otlp.Request{ContentType: binaryType, Body: bytes.Replace(traces(t, spanOf(text("key", "value"))), []byte("value"), []byte("v\xffl\xfee"), 1)}, 400},
		"a group that nests": {otlp.Request{ContentType: binaryType, Body: bytes.Repeat([]byte{0x0b}, 1<<20)}, 400},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.r.Signal == "" {
				c.r.Signal = nimbus.SignalTraces
			}
			_, err := otlp.Decode(c.r)
			var refusal *otlp.RefusalError
			if !errors.As(err, &refusal) || refusal.Status != c.status || refusal.Message == "" {
				t.Errorf("got %v, want %d", err, c.status)
			}
		})
	}
	decode(t, nimbus.SignalTraces, binaryType, traces(t, spanOf(nested(15)))) // which is deep, and still a value
}

// TestTrimmed: what is too long is cut, and what has too many attributes tells how
// many it lost.
func TestTrimmed(t *testing.T) {
	t.Parallel()
	var many []*commonpb.KeyValue
	for i := range 400 {
		many = append(many, text(fmt.Sprint("k", i), "v"))
	}
	many[0] = text("k0", strings.Repeat("ü", 200<<10))
	_, b := kept(t, decode(t, nimbus.SignalTraces, binaryType, traces(t, spanOf(many...))))
	s := b.Spans()[0]
	if long := s.Attributes["k0"]; len(s.Attributes) != 256 || len(long) > 64<<10+len("…") || len(long) < 60<<10 || !strings.HasSuffix(long, "ü…") {
		t.Errorf("%d attributes, the first with %d bytes", len(s.Attributes), len(s.Attributes["k0"]))
	}
}

// TestHiddenBeforeItIsCut: of a secret that lies where a text is cut, not the first
// bytes stay either.
func TestHiddenBeforeItIsCut(t *testing.T) {
	t.Parallel()
	const secret = "s3cr3t-of-some-length"
	long := strings.Repeat("x", 64<<10-len("…")-3) + secret + strings.Repeat("y", 100)
	b := decode(t, nimbus.SignalTraces, binaryType, traces(t, spanOf(text("k", long))))
	b.Rewrite(func(s string) string { return strings.ReplaceAll(s, secret, "***") })
	_, back := kept(t, b)
	if got := back.Spans()[0].Attributes["k"]; len(got) > 64<<10 || !strings.HasSuffix(got, "x***…") {
		t.Errorf("%d bytes, which end with %q", len(got), got[len(got)-20:])
	}
}

// TestWrongIDs: a span with an id of a wrong length goes, those beside it stay, and
// the sender is told.
func TestWrongIDs(t *testing.T) {
	t.Parallel()
	short, zero, parent := spanOf(), spanOf(), spanOf()
	short.SpanId, zero.TraceId, parent.ParentSpanId = []byte{1}, make([]byte, 16), []byte{1, 2, 3}
	b := decode(t, nimbus.SignalTraces, binaryType, traces(t, spanOf(), short, zero, parent))
	if b.Rejected != 3 || b.Why == "" || len(b.Spans()) != 1 {
		t.Errorf("%d rejected (%q), %d kept", b.Rejected, b.Why, len(b.Spans()))
	}
	// In JSON, with a name that hides the id from who looks for hex.
	sly := `{"resourceSpans":[{"scopeSpans":[{"spans":[{"\u0074raceId":"` + strings.Repeat("ab", 16) + `","spanId":"` + strings.Repeat("cd", 8) + `"}]}]}]}`
	if b := decode(t, nimbus.SignalTraces, jsonType, []byte(sly)); b.Rejected != 1 {
		t.Errorf("a hidden id: %d rejected", b.Rejected)
	}
	if _, ok, err := decode(t, nimbus.SignalTraces, jsonType, []byte(sly)).Encode(); ok || err != nil {
		t.Errorf("nothing is a batch: %v, %v", ok, err)
	}
	// Nor does one that is not in hex take the others with it.
	good := `"traceId":"` + strings.Repeat("ab", 16) + `","spanId":"` + strings.Repeat("cd", 8) + `"`
	mixed := `{"resourceSpans":[{"scopeSpans":[{"spans":[{` + good + `},{` + strings.Replace(good, "cd", "zz", 1) + `},{` + good + `,"parentSpanId":"a parent"}]}]}]}`
	if b := decode(t, nimbus.SignalTraces, jsonType, []byte(mixed)); b.Rejected != 2 || len(b.Spans()) != 1 || !strings.Contains(b.Why, "hex") {
		t.Errorf("not in hex: %d rejected (%q), %d kept", b.Rejected, b.Why, len(b.Spans()))
	}
}

// TestReceived: a record has a time, though its sender said none; what it said stays.
func TestReceived(t *testing.T) {
	t.Parallel()
	b := decode(t, nimbus.SignalLogs, jsonType, []byte(`{"resourceLogs":[{"scopeLogs":[{"logRecords":[
		{"body":{"stringValue":"none"}},{"timeUnixNano":"18446744073709551615"},{"timeUnixNano":"1000"},{"observedTimeUnixNano":"2000"}]}]}]}`))
	now := time.Unix(1_700_000_000, 0).UTC()
	b.Received(now)
	_, back := kept(t, b)
	want := []time.Time{now, now, time.Unix(0, 1000).UTC(), time.Unix(0, 2000).UTC()}
	for i, l := range back.Logs() {
		if !l.At.Equal(want[i]) {
			t.Errorf("record %d is of %v, want %v", i, l.At, want[i])
		}
	}
}

// TestStamp: whose it is the host says, on each resource, and what the job claims of
// that is gone.
func TestStamp(t *testing.T) {
	t.Parallel()
	claims := []*commonpb.KeyValue{text("nimbus.org.id", "another"), text("nimbus.org.id", "twice"), text("cicd.pipeline.name", "forged"), text("vcs.repository.name", "x/y"), text("mine", "stays")}
	d := &tracepb.TracesData{ResourceSpans: []*tracepb.ResourceSpans{
		{Resource: &resourcepb.Resource{Attributes: claims}, ScopeSpans: []*tracepb.ScopeSpans{{Spans: []*tracepb.Span{spanOf()}}}},
		{ScopeSpans: []*tracepb.ScopeSpans{{Spans: []*tracepb.Span{spanOf()}}}},
	}}
	raw, err := proto.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	b := decode(t, nimbus.SignalTraces, binaryType, raw)
	b.Stamp([]otlp.Attribute{{"nimbus.org.id", "acme"}, {"nimbus.job.id", "job_1"}, {"vcs.ref.head.name", ""}})
	_, back := kept(t, b)
	for i, r := range sent(t, back).GetResourceSpans() {
		says := map[string]string{}
		for _, a := range r.GetResource().GetAttributes() {
			says[a.GetKey()] = a.GetValue().GetStringValue()
		}
		if says["nimbus.org.id"] != "acme" || says["nimbus.job.id"] != "job_1" || len(says) != 3-i || len(r.GetResource().GetAttributes()) != 3-i {
			t.Errorf("resource %d: %v", i, says)
		}
	}
}

// TestStampStays: on a resource with as many attributes as it may have, it is the
// job's that go.
func TestStampStays(t *testing.T) {
	t.Parallel()
	var many []*commonpb.KeyValue
	for i := range 300 {
		many = append(many, text(fmt.Sprint("k", i), "v"))
	}
	raw, err := proto.Marshal(&tracepb.TracesData{ResourceSpans: []*tracepb.ResourceSpans{
		{Resource: &resourcepb.Resource{Attributes: many}, ScopeSpans: []*tracepb.ScopeSpans{{Spans: []*tracepb.Span{spanOf()}}}}}})
	if err != nil {
		t.Fatal(err)
	}
	b := decode(t, nimbus.SignalTraces, binaryType, raw)
	b.Stamp([]otlp.Attribute{{"nimbus.org.id", "acme"}})
	_, back := kept(t, b)
	r := sent(t, back).GetResourceSpans()[0].GetResource()
	if len(r.GetAttributes()) != 256 || r.GetAttributes()[0].GetKey() != "nimbus.org.id" || r.GetDroppedAttributesCount() != 45 {
		t.Errorf("%d attributes, the first %s, %d dropped", len(r.GetAttributes()), r.GetAttributes()[0].GetKey(), r.GetDroppedAttributesCount())
	}
}

// sent is what a batch of traces is sent on as.
func sent(t *testing.T, b *otlp.Batch) *tracepb.TracesData {
	t.Helper()
	raw, err := b.Request()
	var d tracepb.TracesData
	if err != nil || proto.Unmarshal(raw, &d) != nil {
		t.Fatalf("it is no request: %v", err)
	}
	return &d
}

// TestRewrite: each text of each signal goes through, and no id does.
func TestRewrite(t *testing.T) {
	t.Parallel()
	const secret = "s3cr3t"
	span := spanOf(text("key "+secret, secret), &commonpb.KeyValue{Key: "list", Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_ArrayValue{ArrayValue: &commonpb.ArrayValue{
		Values: []*commonpb.AnyValue{{Value: &commonpb.AnyValue_BytesValue{BytesValue: []byte(secret)}}}}}}})
	span.Name, span.Status, span.TraceState = secret, &tracepb.Status{Message: secret}, secret
	span.Events = []*tracepb.Span_Event{{Name: secret, Attributes: []*commonpb.KeyValue{text("a", secret)}}}
	log := &logspb.LogRecord{TimeUnixNano: 1, Body: text("", secret).GetValue(), EventName: secret, SeverityText: secret}
	metric := &metricspb.Metric{Name: secret, Description: secret, Unit: secret, Data: &metricspb.Metric_Sum{Sum: &metricspb.Sum{
		DataPoints: []*metricspb.NumberDataPoint{{TimeUnixNano: 1, Attributes: []*commonpb.KeyValue{text("a", secret)}, Value: &metricspb.NumberDataPoint_AsInt{AsInt: 7}}}}}}
	for signal, m := range map[nimbus.Signal]proto.Message{
		nimbus.SignalTraces:  &tracepb.TracesData{ResourceSpans: []*tracepb.ResourceSpans{{SchemaUrl: secret, ScopeSpans: []*tracepb.ScopeSpans{{Spans: []*tracepb.Span{span}}}}}},
		nimbus.SignalLogs:    &logspb.LogsData{ResourceLogs: []*logspb.ResourceLogs{{ScopeLogs: []*logspb.ScopeLogs{{LogRecords: []*logspb.LogRecord{log}}}}}},
		nimbus.SignalMetrics: &metricspb.MetricsData{ResourceMetrics: []*metricspb.ResourceMetrics{{ScopeMetrics: []*metricspb.ScopeMetrics{{Metrics: []*metricspb.Metric{metric}}}}}},
	} {
		raw, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		b := decode(t, signal, binaryType, raw)
		b.Rewrite(func(s string) string { return strings.ReplaceAll(s, secret, "***") })
		stored, back := kept(t, b)
		z, err := zstd.NewReader(bytes.NewReader(stored.Data))
		if err != nil {
			t.Fatal(err)
		}
		if plain, err := io.ReadAll(z); err != nil || bytes.Contains(plain, []byte(secret)) || !bytes.Contains(plain, []byte("***")) {
			t.Errorf("%s: %q, %v", signal, plain, err)
		}
		if all, err := json.Marshal([]any{back.Spans(), back.Logs(), back.Points()}); err != nil || bytes.Contains(all, []byte(secret)) || stored.Items != 1 {
			t.Errorf("%s: %s, %v", signal, all, err)
		}
	}
}

// TestPoints: a value that is whole comes as an integer, distributions with their
// sum and count.
func TestPoints(t *testing.T) {
	t.Parallel()
	body := `{"resourceMetrics":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"app"}}]},"scopeMetrics":[{"metrics":[
		{"name":"a","unit":"1","gauge":{"dataPoints":[{"timeUnixNano":"5","asInt":3}]}},
		{"name":"b","sum":{"dataPoints":[{"timeUnixNano":"6","asDouble":2.5,"attributes":[{"key":"k","value":{"intValue":7}}]}]}},
		{"name":"c","histogram":{"dataPoints":[{"timeUnixNano":"7","count":4,"sum":10,"bucketCounts":["1","3"],"explicitBounds":[1]}]}},
		{"name":"d","exponentialHistogram":{"dataPoints":[{"timeUnixNano":"8","count":"2","sum":1}]}},
		{"name":"e","summary":{"dataPoints":[{"timeUnixNano":"9","count":"1","sum":9}]}}]}]}]}`
	stored, b := kept(t, decode(t, nimbus.SignalMetrics, jsonType, []byte(body)))
	var got []string
	for _, p := range b.Points() {
		got = append(got, fmt.Sprintf("%s %s %v %d %s %v %s", p.Name, p.Type, p.Value, p.Count, p.Service, p.Attributes, p.Unit))
	}
	want := []string{"a gauge 3 0 app map[] 1", "b sum 2.5 0 app map[k:7] ", "c histogram 10 4 app map[] ", "d exponential_histogram 1 2 app map[] ", "e summary 9 1 app map[] "}
	if strings.Join(got, "\n") != strings.Join(want, "\n") || stored.Items != 5 {
		t.Errorf("got %d:\n%s", stored.Items, strings.Join(got, "\n"))
	}
}

// TestWholeNumbersAreExact: integers come back as they were sent, in both encodings,
// also those for which a float64 has too few digits.
func TestWholeNumbersAreExact(t *testing.T) {
	t.Parallel()
	const odd = 1<<53 + 1
	numbers := []int64{odd, -odd, math.MaxInt64, math.MinInt64, 0, 7}
	var written []string
	var points []*metricspb.NumberDataPoint
	for i, n := range numbers {
		// OTLP/JSON has them as texts; numbers are taken, too.
		form := `{"timeUnixNano":"1","asInt":"%d"}`
		if i%2 == 1 {
			form = `{"timeUnixNano":"1","asInt":%d}`
		}
		written = append(written, fmt.Sprintf(form, n))
		points = append(points, &metricspb.NumberDataPoint{TimeUnixNano: 1, Value: &metricspb.NumberDataPoint_AsInt{AsInt: n}})
	}
	list := strings.Join(written, ",")
	body := fmt.Sprintf(`{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"g","gauge":{"dataPoints":[%s]}},{"name":"s","sum":{"dataPoints":[%s]}},
		{"name":"h","histogram":{"dataPoints":[{"timeUnixNano":"1","count":"%d","sum":1}]}}]}]}]}`, list, list, int64(odd))
	metrics := []*metricspb.Metric{
		{Name: "g", Data: &metricspb.Metric_Gauge{Gauge: &metricspb.Gauge{DataPoints: points}}}, {Name: "s", Data: &metricspb.Metric_Sum{Sum: &metricspb.Sum{DataPoints: points}}},
		{Name: "h", Data: &metricspb.Metric_Histogram{Histogram: &metricspb.Histogram{DataPoints: []*metricspb.HistogramDataPoint{{TimeUnixNano: 1, Count: odd, Sum: proto.Float64(1)}}}}},
	}
	raw, err := proto.Marshal(&metricspb.MetricsData{ResourceMetrics: []*metricspb.ResourceMetrics{{ScopeMetrics: []*metricspb.ScopeMetrics{{Metrics: metrics}}}}})
	if err != nil {
		t.Fatal(err)
	}
	for contentType, body := range map[string][]byte{jsonType: []byte(body), binaryType: raw} {
		_, b := kept(t, decode(t, nimbus.SignalMetrics, contentType, body))
		got := b.Points()
		if len(got) != 2*len(numbers)+1 {
			t.Fatalf("%s: %d points", contentType, len(got))
		}
		for i, p := range got[:2*len(numbers)] {
			if want := numbers[i%len(numbers)]; p.Int == nil || *p.Int != want || p.Value != float64(want) {
				t.Errorf("%s: %s of %d came as %+v", contentType, p.Name, want, p)
			}
		}
		if p := got[2*len(numbers)]; p.Count != odd || p.Int != nil {
			t.Errorf("%s: a distribution of %d came as %+v", contentType, int64(odd), p)
		}
	}
}

// resources is a body with so many of them, and with empty spans in the last for as
// many messages as it is to hold.
func resources(t *testing.T, n, messages int) []byte {
	t.Helper()
	d := &tracepb.TracesData{ResourceSpans: make([]*tracepb.ResourceSpans, n)}
	for i := range d.GetResourceSpans() {
		d.ResourceSpans[i] = &tracepb.ResourceSpans{}
	}
	scope := &tracepb.ScopeSpans{Spans: []*tracepb.Span{spanOf()}}
	for left := messages - n - 2; left > 0; left-- {
		scope.Spans[0].Events = append(scope.Spans[0].Events, &tracepb.Span_Event{})
	}
	d.ResourceSpans[n-1].ScopeSpans = []*tracepb.ScopeSpans{scope}
	raw, err := proto.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func pack(t *testing.T, raw []byte) []byte {
	t.Helper()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return z.EncodeAll(raw, nil)
}

// TestWhatIsTakenCanBeOpened: a request at each of its bounds is opened again with
// what a host stamps on it, and one beyond them is not taken.
func TestWhatIsTakenCanBeOpened(t *testing.T) {
	t.Parallel()
	var stamp []otlp.Attribute
	for i := range 16 {
		stamp = append(stamp, otlp.Attribute{Key: fmt.Sprint("nimbus.", i), Value: strings.Repeat("v", 600)})
	}
	b := decode(t, nimbus.SignalTraces, binaryType, resources(t, 1000, nimbus.MaxTelemetryItems))
	b.Stamp(stamp)
	if _, back := kept(t, b); len(back.Spans()) != 1 || len(back.Spans()[0].Events) != nimbus.MaxTelemetryItems-1002 || back.Cost() < 50<<20 {
		t.Errorf("%d spans, which cost %d", len(back.Spans()), back.Cost())
	}
	for name, body := range map[string][]byte{"resources": resources(t, 1001, 0), "messages": resources(t, 1000, nimbus.MaxTelemetryItems+1)} {
		_, err := otlp.Decode(otlp.Request{Signal: nimbus.SignalTraces, ContentType: binaryType, Body: body})
		var refusal *otlp.RefusalError
		if !errors.As(err, &refusal) || refusal.Status != 413 {
			t.Errorf("with a %s more: %v", name, err)
		}
	}
	// Numbers that are one byte of JSON and eight of protobuf.
	body := `{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"histogram":{"dataPoints":[{"explicitBounds":[` + strings.Repeat("1,", 4_000_000) + `1]}]}}]}]}]}`
	numbers, err := otlp.Decode(otlp.Request{Signal: nimbus.SignalMetrics, ContentType: jsonType, Encoding: "gzip", Body: zip(t, []byte(body))})
	if err != nil {
		t.Fatal(err)
	}
	kept(t, numbers)
}

// TestOpenIsBounded: a host is believed no more than its jobs.
func TestOpenIsBounded(t *testing.T) {
	t.Parallel()
	large := spanOf()
	large.Name = strings.Repeat("x", 60<<20)
	for name, data := range map[string][]byte{
		"no zstd":           []byte("no zstd"),
		"a bomb":            pack(t, traces(t, large)),
		"too many messages": pack(t, resources(t, 1, 300_000)),
		"deep values":       pack(t, traces(t, spanOf(nested(200)))),
	} {
		if _, err := otlp.Open(nimbus.SignalTraces, data); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}
