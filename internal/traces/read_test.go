package traces

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/telemetry/otlp"
)

// shelf holds batches of one job in memory. What it does not implement nobody calls.
type shelf struct {
	Store
	attempt string
	batches []Stored
	items   map[nimbus.Signal]int64
	asked   int
}

func (s *shelf) CountTelemetry(context.Context, string, string) (map[nimbus.Signal]int64, error) {
	return s.items, nil
}

func (s *shelf) TelemetryBatches(_ context.Context, _, _ string, _ nimbus.Signal, after Position, most int) (found []Stored, err error) {
	s.asked++
	for _, b := range s.batches {
		if b.Seq > after.Seq && len(found) < most {
			found = append(found, b)
		}
	}
	return found, nil
}

func (s *shelf) Job(context.Context, string, string) (nimbus.Job, error) {
	return nimbus.Job{ID: "job_1", OrgID: "acme"}, nil
}

// put adds a batch that a job sent.
func (s *shelf) put(t *testing.T, signal nimbus.Signal, body string) {
	t.Helper()
	b, err := otlp.Decode(otlp.Request{Signal: signal, ContentType: "application/json", Body: []byte(body)})
	if err != nil {
		t.Fatal(err)
	}
	kept, ok, err := b.Encode()
	if err != nil || !ok {
		t.Fatalf("%v, %v", ok, err)
	}
	if s.attempt == "" {
		s.attempt = nimbus.NewID(nimbus.PrefixAttempt, time.Now())
	}
	s.batches = append(s.batches, Stored{Position{s.attempt, int64(len(s.batches)) + 1}, kept.Data})
	if s.items == nil {
		s.items = map[nimbus.Signal]int64{}
	}
	s.items[signal] += int64(kept.Items)
}

func serve(s *shelf) *Service {
	return New(Config{Store: s, Jobs: s, Log: slog.New(slog.DiscardHandler)})
}

// spans is a request with some, whose numbers go on from one.
func spans(from, n int, edit func(i int) string) string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf(`{"traceId":"%032x","spanId":"%016x","startTimeUnixNano":"%d"%s}`, 1, from+i, 1_700_000_000_000_000_000+from+i, edit(i))
	}
	return strings.Join(all, ",")
}

func none(int) string { return "" }

// TestTraceIsBounded: whichever text of a span is long, an answer has no more than
// it may, of those that came first, and says how many it has not.
func TestTraceIsBounded(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 60<<10)
	resource := `{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":%q}}]},"scopeSpans":[{"scope":{"name":%q},"spans":[%s]}]}]}`
	for name, body := range map[string]func(from int) string{
		"service": func(from int) string { return fmt.Sprintf(resource, long, "", spans(from, 150, none)) },
		"scope":   func(from int) string { return fmt.Sprintf(resource, "", long, spans(from, 150, none)) },
		"name": func(from int) string {
			return fmt.Sprintf(resource, "", "", spans(from, 60, func(int) string { return fmt.Sprintf(`,"name":%q`, long) }))
		},
		"message": func(from int) string {
			return fmt.Sprintf(resource, "", "", spans(from, 60, func(int) string { return fmt.Sprintf(`,"status":{"message":%q}`, long) }))
		},
		"events": func(from int) string {
			return fmt.Sprintf(resource, "", "", spans(from, 2, func(int) string { return `,"events":[` + strings.Repeat("{},", 90_000) + `{}]` }))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &shelf{}
			for i := range 6 {
				s.put(t, nimbus.SignalTraces, body(1+1000*i))
			}
			got, err := serve(s).Trace(t.Context(), "acme", "job_1", 0)
			if err != nil {
				t.Fatal(err)
			}
			size := 0
			for _, span := range got.Spans {
				size += len(span.Name) + len(span.StatusMessage) + len(span.Service) + len(span.Scope) + 16*len(span.Events)
			}
			if len(got.Spans) == 0 || size > 16<<20 || got.LeftOut == 0 || got.LeftOut+int64(len(got.Spans)) != got.Sent || got.Spans[0].SpanID != fmt.Sprintf("%016x", 1) {
				t.Errorf("%d spans of %d bytes, %d left out of %d", len(got.Spans), size, got.LeftOut, got.Sent)
			}
		})
	}
}

// pages reads all pages, and says how many there were.
func pages(t *testing.T, s *Service, signal nimbus.Signal, check func(nimbus.TelemetryPage)) (n int) {
	t.Helper()
	for token := ""; ; {
		page, err := s.Page(t.Context(), "acme", "job_1", signal, mostPage, token)
		if err != nil {
			t.Fatal(err)
		}
		check(page)
		if n++; page.Next == "" {
			return n
		}
		if token = page.Next; n > 1000 {
			t.Fatal("the pages have no end")
		}
	}
}

// TestPagesAreBounded: whichever text is long, a page has no more than it may, and
// the next ones have the rest.
func TestPagesAreBounded(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 60<<10)
	service := fmt.Sprintf(`"resource":{"attributes":[{"key":"service.name","value":{"stringValue":%q}}]}`, long)
	few := func(n int, what string) string { return strings.Repeat(what+",", n-1) + what }
	for name, c := range map[string]struct {
		signal nimbus.Signal
		n      int
		body   string
	}{
		"service of records": {nimbus.SignalLogs, 200, `{"resourceLogs":[{` + service + `,"scopeLogs":[{"logRecords":[` + few(200, `{"timeUnixNano":"5"}`) + `]}]}]}`},
		"severity":           {nimbus.SignalLogs, 60, `{"resourceLogs":[{"scopeLogs":[{"logRecords":[` + few(60, fmt.Sprintf(`{"severityText":%q}`, long)) + `]}]}]}`},
		"event name":         {nimbus.SignalLogs, 60, `{"resourceLogs":[{"scopeLogs":[{"logRecords":[` + few(60, fmt.Sprintf(`{"eventName":%q}`, long)) + `]}]}]}`},
		"service of points":  {nimbus.SignalMetrics, 200, `{"resourceMetrics":[{` + service + `,"scopeMetrics":[{"metrics":[{"name":"n","gauge":{"dataPoints":[` + few(200, `{"asInt":1}`) + `]}}]}]}]}`},
		"name of points":     {nimbus.SignalMetrics, 200, fmt.Sprintf(`{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":%q,"gauge":{"dataPoints":[%s]}}]}]}]}`, long, few(200, `{"asInt":1}`))},
		"unit of points":     {nimbus.SignalMetrics, 200, fmt.Sprintf(`{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"unit":%q,"gauge":{"dataPoints":[%s]}}]}]}]}`, long, few(200, `{"asInt":1}`))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, found := &shelf{}, 0
			for range 3 {
				s.put(t, c.signal, c.body)
			}
			n := pages(t, serve(s), c.signal, func(p nimbus.TelemetryPage) {
				size := 0
				for _, l := range p.Logs {
					size += len(l.Service) + len(l.Severity) + len(l.EventName)
				}
				for _, x := range p.Points {
					size += len(x.Service) + len(x.Name) + len(x.Unit)
				}
				if found += len(p.Logs) + len(p.Points); size > 8<<20 {
					t.Errorf("a page of %d bytes", size)
				}
			})
			if found != 3*c.n || n < 2 {
				t.Errorf("%d pages with %d items", n, found)
			}
		})
	}
}

// TestWorkIsBounded: for one answer only so much is opened, also where nothing of it
// is new; what is left comes with the next page, or is told to be left out.
func TestWorkIsBounded(t *testing.T) {
	t.Parallel()
	s := &shelf{}
	for range 100 {
		s.put(t, nimbus.SignalTraces, `{"resourceSpans":[{"scopeSpans":[{"spans":[`+spans(1, 10, none)+`]}]}]}`)
	}
	room := serve(s)
	room.readBudget = 20 * batchCost
	got, err := room.Trace(t.Context(), "acme", "job_1", 0)
	if err != nil || len(got.Spans) != 10 || got.LeftOut < 700 || got.LeftOut > 900 || s.asked > 4 {
		t.Errorf("%d spans, %d left out, asked %d times: %v", len(got.Spans), got.LeftOut, s.asked, err)
	}

	s = &shelf{}
	for i := range 100 {
		s.put(t, nimbus.SignalLogs, fmt.Sprintf(`{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":{"stringValue":"%d"}}]}]}]}`, i))
	}
	s.batches[30].Data = []byte("no zstd")
	room = serve(s)
	room.readBudget = 20 * batchCost
	var all []string
	n := pages(t, room, nimbus.SignalLogs, func(p nimbus.TelemetryPage) {
		for _, l := range p.Logs {
			all = append(all, l.Body)
		}
	})
	if n < 5 || len(all) != 99 || all[0] != "0" || all[98] != "99" {
		t.Errorf("%d pages with %v", n, all)
	}
}

// TestReadersTakeTurns: while as many as may have batches in memory the next one
// waits, for as long as who asked does.
func TestReadersTakeTurns(t *testing.T) {
	t.Parallel()
	s := &shelf{}
	s.put(t, nimbus.SignalLogs, `{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":{"stringValue":"x"}}]}]}]}`)
	room := serve(s)
	for range readsAtOnce {
		room.reading <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := room.Page(ctx, "acme", "job_1", nimbus.SignalLogs, 0, ""); !errors.Is(err, context.Canceled) || s.asked != 0 {
		t.Errorf("one too many: %v", err)
	}
	<-room.reading
	for range 2 * readsAtOnce { // each leaves its place to the next
		if page, err := room.Page(t.Context(), "acme", "job_1", nimbus.SignalLogs, 0, ""); err != nil || len(page.Logs) != 1 {
			t.Errorf("with a place: %v, %v", page, err)
		}
	}
}
