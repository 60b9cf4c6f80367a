package httpapi_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/httpapi"
	"github.com/nimbus-ci/nimbus/internal/telemetry/otlp"
	"github.com/nimbus-ci/nimbus/internal/traces"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// told is a batch of what a job told, as a host makes it.
func told(t *testing.T, seq int64, s nimbus.Signal, body string) *nimbusv1.TelemetryBatch {
	t.Helper()
	b, err := otlp.Decode(otlp.Request{Signal: s, ContentType: "application/json", Body: []byte(body)})
	must(t, err)
	batch, ok, err := b.Encode()
	must(t, err)
	if !ok {
		t.Fatal("there is nothing in it")
	}
	batch.Seq = seq
	return wire.TelemetryBatch(batch)
}

// spans is a request with spans, by their numbers, each named after them.
func spans(trace string, numbers ...int) string {
	var all []string
	for _, n := range numbers {
		all = append(all, fmt.Sprintf(`{"traceId":%q,"spanId":"%016x","name":"span %d","startTimeUnixNano":"%d","endTimeUnixNano":"%d"}`, trace, n, n, 1_700_000_000_000_000_000+n, 1_700_000_000_000_000_500+n))
	}
	return `{"resourceSpans":[{"scopeSpans":[{"spans":[` + strings.Join(all, ",") + `]}]}]}`
}

func records(n int) string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf(`{"timeUnixNano":"%d","body":{"stringValue":"record %d"}}`, 1_700_000_000_000_000_000+i, i)
	}
	return `{"resourceLogs":[{"scopeLogs":[{"logRecords":[` + strings.Join(all, ",") + `]}]}]}`
}

var someTrace = strings.Repeat("ab", 16)

// sentSpans are the names of those that a job's processes sent, as a reader gets
// them.
func sentSpans(t *testing.T, got answer) (names []string) {
	t.Helper()
	var v struct {
		Spans []struct {
			Name      string `json:"name"`
			Lifecycle bool   `json:"lifecycle"`
		} `json:"spans"`
	}
	if got.status != http.StatusOK {
		t.Fatalf("%d %s", got.status, got.body)
	}
	must(t, json.Unmarshal([]byte(got.body), &v))
	for _, s := range v.Spans {
		if !s.Lifecycle {
			names = append(names, s.Name)
		}
	}
	return names
}

// TestTelemetryOnBothEngines: batches are stored once, under the job of the lease;
// read by its org alone; bounded by a quota; and gone when they are old.
func TestTelemetryOnBothEngines(t *testing.T) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) { t.Parallel(); testTelemetry(t, startPlane(t)) })
	t.Run("postgres", func(t *testing.T) { t.Parallel(); testTelemetry(t, startReplica(t)) })
}

func testTelemetry(t *testing.T, p *plane) {
	one, two := newTenant(t, p, "acme"), newTenant(t, p, "globex")
	lease := func(tn tenant) *nimbusv1.Lease {
		l := &nimbusv1.Lease{}
		must(t, protojson.Unmarshal([]byte(tn.things["lease"]), l))
		return l
	}
	send := func(tn tenant, l *nimbusv1.Lease, batches ...*nimbusv1.TelemetryBatch) (int64, error) {
		answer, err := tn.host.AppendTelemetry(t.Context(), connect.NewRequest(&nimbusv1.AppendTelemetryRequest{Lease: l, Batches: batches}))
		if err != nil {
			return 0, err
		}
		return answer.Msg.GetAcknowledgedSeq(), nil
	}
	acked := func(want, got int64, err error) {
		t.Helper()
		must(t, err)
		if got != want {
			t.Errorf("acknowledged up to %d, want %d", got, want)
		}
	}
	first, second := told(t, 1, nimbus.SignalTraces, spans(someTrace, 1, 2)), told(t, 2, nimbus.SignalTraces, spans(someTrace, 2, 3))
	n, err := send(one, lease(one), first)
	acked(1, n, err)
	n, err = send(one, lease(one), first, second) // the answer was lost
	acked(2, n, err)
	n, err = send(one, lease(one), first)
	acked(2, n, err)
	n, err = send(one, lease(one), told(t, 3, nimbus.SignalLogs, records(5)))
	acked(3, n, err)
	n, err = send(two, lease(two), told(t, 1, nimbus.SignalTraces, spans(someTrace, 9)))
	acked(1, n, err)

	// Nobody writes with a lease that is not its host's, nor a batch that is none.
	wrong := lease(one)
	wrong.Fence++
	_, err = send(one, wrong, told(t, 4, nimbus.SignalTraces, spans(someTrace, 7)))
	wantCode(t, nimbus.CodeFenced, err)
	_, err = send(two, lease(one), told(t, 4, nimbus.SignalTraces, spans(someTrace, 7)))
	wantCode(t, nimbus.CodeFenced, err)
	for _, edit := range []func(*nimbusv1.TelemetryBatch){
		func(b *nimbusv1.TelemetryBatch) { b.Seq = 0 }, func(b *nimbusv1.TelemetryBatch) { b.Signal = "profiles" },
		func(b *nimbusv1.TelemetryBatch) { b.Items = nimbus.MaxTelemetryItems + 1 }, func(b *nimbusv1.TelemetryBatch) { b.Data = nil },
	} {
		b := told(t, 4, nimbus.SignalTraces, spans(someTrace, 7))
		edit(b)
		_, err = send(one, lease(one), b)
		wantCode(t, nimbus.CodeInvalid, err)
	}
	_, err = send(one, lease(one), make([]*nimbusv1.TelemetryBatch, nimbus.MaxTelemetryBatches+1)...)
	wantCode(t, nimbus.CodeInvalid, err)

	// Each reads its own, each span once, in whichever trace it says it is.
	read := func(tn tenant, path string) answer {
		return p.asAdmin(t, http.MethodGet, path, "", "Nimbus-Org", tn.things["org"])
	}
	for _, c := range []struct {
		tn    tenant
		query string
		want  string
	}{{one, "", "span 1,span 2,span 3"}, {one, "?limit=2", "span 1,span 2"}, {two, "", "span 9"}} {
		if got := strings.Join(sentSpans(t, read(c.tn, "/api/v1/jobs/"+c.tn.things["job"]+"/trace"+c.query)), ","); got != c.want {
			t.Errorf("%s%s: %s, want %s", c.tn.things["org"], c.query, got, c.want)
		}
	}
	if got := read(two, "/api/v1/jobs/"+one.things["job"]+"/trace"); got.status != http.StatusNotFound {
		t.Errorf("another org's: %d %s", got.status, got.body)
	}

	// Pages hold each record once, whatever their size.
	for _, size := range []int{1, 2, 100} {
		var all []string
		for token := ""; ; {
			page, err := p.traces.Page(t.Context(), one.org.ID, one.things["job"], nimbus.SignalLogs, size, token)
			must(t, err)
			for _, l := range page.Logs {
				all = append(all, l.Body)
			}
			if token = page.Next; token == "" {
				break
			}
		}
		if got := strings.Join(all, ","); got != "record 0,record 1,record 2,record 3,record 4" {
			t.Errorf("pages of %d: %s", size, got)
		}
	}
	for _, token := range []string{"x", "att_x:1:0", one.things["attempt"] + ":0:0", one.things["attempt"] + ":1:-1", one.things["attempt"] + ":1", "' OR 1=1 --:1:0"} {
		_, err := p.traces.Page(t.Context(), one.org.ID, one.things["job"], nimbus.SignalLogs, 10, token)
		wantCode(t, nimbus.CodeInvalid, err)
	}
	page, err := p.traces.Page(t.Context(), two.org.ID, two.things["job"], nimbus.SignalLogs, 10, one.things["attempt"]+":1:0")
	if must(t, err); len(page.Logs) != 0 {
		t.Errorf("with another org's token: %v", page)
	}

	// Of what is old nothing is left, nor counted.
	o, err := p.traces.Org(t.Context(), one.org.ID)
	if must(t, err); o.Bytes == 0 {
		t.Error("nothing is counted")
	}
	must(t, p.traces.Sweep(t.Context()))
	if got := sentSpans(t, read(one, "/api/v1/jobs/"+one.things["job"]+"/trace")); len(got) != 3 {
		t.Errorf("what is not old went: %v", got)
	}
	checkTelemetryRetention(t, p, one, two)
	must(t, p.books.OffsetClock(t.Context(), traces.DefaultKeep+time.Hour))
	must(t, p.traces.Sweep(t.Context()))
	o, err = p.traces.Org(t.Context(), one.org.ID)
	must(t, err)
	if got := sentSpans(t, read(one, "/api/v1/jobs/"+one.things["job"]+"/trace")); len(got) != 0 || o.Bytes != 0 {
		t.Errorf("left: %v, %d bytes", got, o.Bytes)
	}
}

// checkTelemetryRetention: an org that keeps its logs for less time keeps its telemetry no
// longer, whether the time is its own or that of all.
func checkTelemetryRetention(t *testing.T, p *plane, one, two tenant) {
	t.Helper()
	set := func(org string, days int32) {
		t.Helper()
		must(t, p.books.SetLogRetention(t.Context(), org, days, nimbus.AuditEvent{
			OrgID: nimbus.DefaultOrgID, Actor: "system", Action: "logs.retention", Outcome: nimbus.AuditAllowed,
		}))
	}
	has := func(tn tenant) bool {
		t.Helper()
		got, err := p.traces.Trace(t.Context(), tn.org.ID, tn.things["job"], 0)
		must(t, err)
		o, err := p.traces.Org(t.Context(), tn.org.ID)
		if must(t, err); (got.Sent > 0) != (o.Bytes > 0) {
			t.Errorf("%s has %d spans and %d bytes", tn.org.ID, got.Sent, o.Bytes)
		}
		return got.Sent > 0
	}
	const day = 24 * time.Hour
	set(two.org.ID, 7)
	must(t, p.books.OffsetClock(t.Context(), 7*day-time.Hour))
	must(t, p.traces.Sweep(t.Context()))
	if !has(two) {
		t.Error("what is not too old for its org went")
	}
	must(t, p.books.OffsetClock(t.Context(), 7*day+time.Hour))
	set(two.org.ID, 0) // for ever, as far as logs go
	set("", 8)
	must(t, p.traces.Sweep(t.Context()))
	if !has(one) || !has(two) {
		t.Error("what is not too old for its org went, with another org's time")
	}
	set(two.org.ID, 7)
	must(t, p.traces.Sweep(t.Context()))
	if !has(one) || has(two) {
		t.Error("what is too old for its org is there, or what is not too old for another went")
	}
	set(one.org.ID, 0)
	must(t, p.books.OffsetClock(t.Context(), 9*day))
	must(t, p.traces.Sweep(t.Context()))
	if !has(one) {
		t.Error("the time of all counted for an org that has its own")
	}
}

// TestTelemetryQuota: at its quota an attempt or an org stores nothing more, and
// what was stored stays; another org is none the worse.
func TestTelemetryQuota(t *testing.T) {
	t.Parallel()
	large := told(t, 2, nimbus.SignalLogs, records(2000))
	for name, limits := range map[string]traces.Limits{
		"attempt": {Attempt: int64(len(large.GetData())), Batches: traces.DefaultBatches, Org: traces.DefaultOrg},
		"batches": {Attempt: traces.DefaultAttempt, Batches: 1, Org: traces.DefaultOrg},
		"org":     {Attempt: traces.DefaultAttempt, Batches: traces.DefaultBatches, Org: int64(len(large.GetData()))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startPlane(t, func(c *httpapi.Config) {
				c.Telemetry.(*traces.Service).Limits = limits
			})
			h := p.join(t)
			p.submit(t)
			l := h.accept(t)
			send := func(b *nimbusv1.TelemetryBatch) error {
				_, err := h.AppendTelemetry(t.Context(), connect.NewRequest(&nimbusv1.AppendTelemetryRequest{Lease: l, Batches: []*nimbusv1.TelemetryBatch{b}}))
				return err
			}
			must(t, send(told(t, 1, nimbus.SignalTraces, spans(someTrace, 1))))
			wantCode(t, nimbus.CodeTooLarge, send(large))
			must(t, send(told(t, 1, nimbus.SignalTraces, spans(someTrace, 1)))) // which it has
			o, err := p.traces.Org(t.Context(), nimbus.DefaultOrgID)
			if must(t, err); o.Bytes == 0 || o.Bytes > int64(len(large.GetData())) {
				t.Errorf("%d bytes are counted", o.Bytes)
			}
		})
	}
}

// TestTelemetrySwitch: jobs that begin once it is off have no receiver.
func TestTelemetrySwitch(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	h := p.join(t)
	for _, off := range []bool{false, true, false} {
		got := p.asAdmin(t, http.MethodPost, "/nimbus.v1.TelemetryService/SetOrgTelemetry", fmt.Sprintf(`{"off":%t}`, off))
		if got.status != http.StatusOK {
			t.Fatalf("%d %s", got.status, got.body)
		}
		p.submit(t)
		l := h.accept(t)
		again, err := h.Accept(t.Context(), connect.NewRequest(&nimbusv1.AcceptRequest{Lease: l}))
		must(t, err)
		if again.Msg.GetAssignment().GetTelemetry() == off {
			t.Errorf("off is %t, and a job has a receiver: %t", off, again.Msg.GetAssignment().GetTelemetry())
		}
		h.finish(t, l, 0)
	}
}

// TestTelemetryIsExact: what JSON's numbers have too few digits for comes as a text.
func TestTelemetryIsExact(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	h := p.join(t)
	j := p.submit(t)
	l := h.accept(t)
	const body = `{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"n","sum":{"dataPoints":[{"timeUnixNano":"1","asInt":"9007199254740993"}]}},
		{"name":"h","histogram":{"dataPoints":[{"timeUnixNano":"1","count":"9007199254740995","sum":1}]}}]}]}]}`
	_, err := h.AppendTelemetry(t.Context(), connect.NewRequest(&nimbusv1.AppendTelemetryRequest{Lease: l, Batches: []*nimbusv1.TelemetryBatch{told(t, 1, nimbus.SignalMetrics, body)}}))
	must(t, err)
	got := p.asAdmin(t, http.MethodPost, "/nimbus.v1.TelemetryService/ListTelemetry", fmt.Sprintf(`{"jobId":%q,"signal":"metrics"}`, j.ID))
	var page struct {
		Points []struct {
			IntValue string `json:"intValue"`
			Count    string `json:"count"`
		} `json:"points"`
	}
	if got.status != http.StatusOK {
		t.Fatalf("%d %s", got.status, got.body)
	}
	must(t, json.Unmarshal([]byte(got.body), &page))
	if len(page.Points) != 2 || page.Points[0].IntValue != "9007199254740993" || page.Points[1].Count != "9007199254740995" {
		t.Errorf("got %s", got.body)
	}
}

// TestTelemetryThatCannotBeRead: a batch that is broken takes no other with it.
func TestTelemetryThatCannotBeRead(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	h := p.join(t)
	j := p.submit(t)
	l := h.accept(t)
	broken := told(t, 1, nimbus.SignalTraces, spans(someTrace, 1))
	broken.Data = bytes.Repeat([]byte("no zstd "), 10)
	_, err := h.AppendTelemetry(t.Context(), connect.NewRequest(&nimbusv1.AppendTelemetryRequest{Lease: l, Batches: []*nimbusv1.TelemetryBatch{broken, told(t, 2, nimbus.SignalTraces, spans(someTrace, 2))}}))
	must(t, err)
	if got := sentSpans(t, p.asAdmin(t, http.MethodGet, "/api/v1/jobs/"+j.ID+"/trace", "")); len(got) != 1 || got[0] != "span 2" {
		t.Errorf("got %v", got)
	}
}
