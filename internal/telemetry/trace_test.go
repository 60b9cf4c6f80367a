package telemetry_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/telemetry"
)

// receiver takes traces as a collector does, over HTTP.
type receiver struct {
	*httptest.Server
	mu      sync.Mutex
	spans   []*otlp.Span
	service string
	gone    bool
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	c := &receiver{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(r.Body)
		var in collector.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(raw, &in)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		switch {
		case c.gone:
			w.WriteHeader(http.StatusBadRequest) // which is not tried again
			return
		case err != nil || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf":
			t.Errorf("%s %s: %v", r.URL.Path, r.Header.Get("Content-Type"), err)
		}
		for _, resource := range in.GetResourceSpans() {
			for _, a := range resource.GetResource().GetAttributes() {
				if a.GetKey() == "service.name" {
					c.service = a.GetValue().GetStringValue()
				}
			}
			for _, scope := range resource.GetScopeSpans() {
				c.spans = append(c.spans, scope.GetSpans()...)
			}
		}
	}))
	t.Cleanup(c.Close)
	return c
}

// trace has traces sent, and returns what ends that once all are.
func (w *world) trace(endpoint string) (stop func()) {
	w.t.Helper()
	tracer, err := telemetry.NewTracer(w.t.Context(), endpoint, "test", w, w.metrics, w.log)
	w.must(err)
	w.metrics.OnEnd(tracer.Ended)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- tracer.Run(ctx, func() {}) }()
	return func() {
		w.t.Helper()
		cancel()
		w.must(<-ended)
	}
}

func (c *receiver) byName(t *testing.T, jobID string) map[string]*otlp.Span {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	sum := sha256.Sum256([]byte(jobID))
	out := map[string]*otlp.Span{}
	for _, s := range c.spans {
		if hex.EncodeToString(s.GetTraceId()) != hex.EncodeToString(sum[:16]) {
			continue
		}
		if out[s.GetName()] != nil {
			t.Errorf("%s came twice", s.GetName())
		}
		out[s.GetName()] = s
	}
	return out
}

// TestEachJobHasATrace, under an id that follows from the job's, with a span for
// each part of its life that ends where the next begins.
func TestEachJobHasATrace(t *testing.T) {
	t.Parallel()
	w, c := newWorld(t), newReceiver(t)
	stop := w.trace(c.URL)
	ran, cancelled := w.submit(1), w.submit(64)
	w.end(w.take())
	_, err := w.Cancel(t.Context(), nimbus.Principal{Kind: nimbus.PrincipalAdmin, Subject: "admin"}, nimbus.DefaultOrgID, cancelled.ID)
	w.must(err)
	stop()
	spans := c.byName(t, ran.ID)
	names := []string{"received", "queued", "offered", "accepted", "sandbox", "run", "finish"}
	root := spans["job"]
	if len(spans) != len(names)+1 || root == nil || len(root.GetParentSpanId()) != 0 || c.service != "nimbus" {
		t.Fatalf("the trace has %d spans, its service is %q", len(spans), c.service)
	}
	for i, name := range names {
		s := spans[name]
		if s == nil {
			t.Fatalf("there is no span %s", name)
		}
		if string(s.GetParentSpanId()) != string(root.GetSpanId()) {
			t.Errorf("%s is not the job's", name)
		}
		if i > 0 && s.GetStartTimeUnixNano() != spans[names[i-1]].GetEndTimeUnixNano() {
			t.Errorf("%s begins at another time than %s ends", name, names[i-1])
		}
	}
	j, err := w.Job(t.Context(), nimbus.DefaultOrgID, ran.ID)
	w.must(err)
	times := []uint64{root.GetStartTimeUnixNano(), spans["run"].GetStartTimeUnixNano(), spans["run"].GetEvents()[0].GetTimeUnixNano(), root.GetEndTimeUnixNano()}
	want := []uint64{nano(j.Timeline.ReceivedAt), nano(j.Timeline.RunningAt), nano(j.Timeline.FirstOutputAt), nano(j.Timeline.FinishedAt)}
	if diff := cmp.Diff(want, times); diff != "" {
		t.Errorf("times, -timeline +spans:\n%s", diff)
	}
	told := map[string]string{}
	for _, a := range root.GetAttributes() {
		told[a.GetKey()] = a.GetValue().GetStringValue()
	}
	for key, want := range map[string]string{
		"nimbus.job.id": j.ID, "nimbus.org.id": j.OrgID, "nimbus.job.result": "success", "nimbus.host.id": w.host.ID,
		"nimbus.attempt.id": j.AttemptID, "nimbus.class.id": j.Class.ID(), "nimbus.class": "local-1cpu-1024mib",
	} {
		if told[key] != want {
			t.Errorf("%s is %q, want %q", key, told[key], want)
		}
	}
	other := c.byName(t, cancelled.ID)
	if got := keys(other); !slices.Equal(got, []string{"finish", "job", "queued", "received"}) {
		t.Errorf("the job that never ran has %v", got)
	}
}

func nano(at time.Time) uint64 { return uint64(at.UnixNano()) }

func keys(m map[string]*otlp.Span) (out []string) {
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// TestACollectorThatIsGone costs jobs nothing, and is told once.
func TestACollectorThatIsGone(t *testing.T) {
	t.Parallel()
	w, c := newWorld(t), newReceiver(t)
	var told strings.Builder
	w.log = slog.New(slog.NewTextHandler(&told, nil))
	c.gone = true
	stop := w.trace(c.URL)
	for range 3 {
		w.submit(1)
		w.end(w.take())
	}
	stop()
	if n := strings.Count(told.String(), "traces can't be sent"); n != 1 {
		t.Errorf("told %d times: %s", n, told.String())
	}
	if got := w.sample("nimbus_jobs_finished_total"); got != 3 {
		t.Errorf("%v jobs ended", got)
	}
}

// TestTracesAreBounded: what nobody makes traces of in time is dropped and
// counted, and never waited for.
func TestTracesAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tracer, err := telemetry.NewTracer(t.Context(), "http://127.0.0.1:9", "test", w, w.metrics, w.log)
	w.must(err)
	for range 5000 { // nothing runs that takes them
		tracer.Ended(nimbus.DefaultOrgID, "job")
	}
	if got := w.sample("nimbus_traces_dropped_total"); got != 5000-4096 {
		t.Errorf("%v were dropped", got)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	w.must(tracer.Run(ctx, func() {}))
}

func TestWhatIsNoEndpoint(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, bad := range []string{"collector:4318", "ftp://collector", "http://", "http://user:secret@bad host"} {
		_, err := telemetry.NewTracer(t.Context(), bad, "test", w, w.metrics, w.log)
		if nimbus.ErrorCode(err) != nimbus.CodeInvalid || strings.Contains(err.Error(), "secret") || nimbus.ErrorHint(err) == "" {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
