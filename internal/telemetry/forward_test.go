package telemetry_test

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	otlppb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/telemetry"
	"github.com/nimbus-ci/nimbus/internal/telemetry/otlp"
)

// toldBatch is what a job told, as it is stored.
func toldBatch(t *testing.T, trace string) nimbus.TelemetryBatch {
	t.Helper()
	body := fmt.Sprintf(`{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":%q,"spanId":"0000000000000001","startTimeUnixNano":"1",
		"links":[{"traceId":%q,"spanId":"0000000000000002"}]}]}]}]}`, trace, trace)
	b, err := otlp.Decode(otlp.Request{Signal: nimbus.SignalTraces, ContentType: "application/json", Body: []byte(body)})
	if err != nil {
		t.Fatal(err)
	}
	stored, _, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

// TestSentOn: what jobs tell comes to the endpoint with its headers, by signal. A
// span in the job's own trace stays there; whatever else it says it is in becomes a
// trace of this job alone, so that none writes into another's.
func TestSentOn(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20x, X-Scope=me")
	heard := make(chan *otlppb.Span, 10)
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(r.Body)
		var d otlppb.TracesData
		if err != nil || proto.Unmarshal(raw, &d) != nil || r.URL.Path != "/base/v1/traces" || r.Header.Get("Authorization") != "Bearer x" || r.Header.Get("X-Scope") != "me" {
			t.Errorf("%s %v: %v", r.URL.Path, r.Header, err)
		}
		heard <- d.GetResourceSpans()[0].GetScopeSpans()[0].GetSpans()[0]
		w.WriteHeader(http.StatusOK)
	}))
	defer collector.Close()
	f, err := telemetry.NewForwarder(collector.URL+"/base", telemetry.NewMetrics("test"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx, func() {}) }()
	mine, theirs := nimbus.TraceID("job_mine"), nimbus.TraceID("job_theirs")
	id := func(job, trace string) string {
		t.Helper()
		f.Forward(job, toldBatch(t, trace))
		s := <-heard
		if got := hex.EncodeToString(s.GetTraceId()); got != hex.EncodeToString(s.GetLinks()[0].GetTraceId()) {
			t.Errorf("a link into the same trace leads elsewhere")
		}
		return hex.EncodeToString(s.GetTraceId())
	}
	own, other := hex.EncodeToString(mine[:]), hex.EncodeToString(theirs[:])
	if got := id("job_mine", own); got != own {
		t.Errorf("its own trace became %s", got)
	}
	forged := id("job_mine", other)
	if forged == other {
		t.Error("a job writes into another's trace")
	}
	if again := id("job_mine", other); again != forged || id("job_third", other) == forged {
		t.Errorf("a trace of a job's is not one of its own: %s, %s", forged, again)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestOneEndpoint: the traces of jobs and what jobs tell go to places below the same
// base, however that is written.
func TestOneEndpoint(t *testing.T) {
	t.Parallel()
	for endpoint, want := range map[string]string{"": "", "/": "", "/base": "/base", "/base/": "/base", "/v1/traces": "", "/base/v1/traces": "/base", "/base/v1/traces/": "/base"} {
		t.Run("at "+endpoint, func(t *testing.T) {
			t.Parallel()
			heard := make(chan string, 10)
			collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				heard <- r.Header.Get("User-Agent")[:3] + " " + r.URL.EscapedPath()
				w.WriteHeader(http.StatusOK)
			}))
			defer collector.Close()
			w := newWorld(t)
			stop := w.trace(collector.URL + endpoint)
			w.submit(1)
			w.end(w.take())
			stop()
			if got := <-heard; got != "OTe "+want+"/v1/traces" {
				t.Errorf("the traces of jobs go by %s", got)
			}
			f, err := telemetry.NewForwarder(collector.URL+endpoint, w.metrics, w.log)
			w.must(err)
			f.Forward("job_mine", toldBatch(t, strings.Repeat("ab", 16)))
			ctx, end := context.WithCancel(t.Context())
			end() // it sends what there is
			w.must(f.Run(ctx, func() {}))
			if got := <-heard; got != "Go- "+want+"/v1/traces" {
				t.Errorf("what jobs tell goes by %s", got)
			}
		})
	}
}

// TestSentOnRefuses: an address or headers that are none, without saying what is
// secret in them.
func TestSentOnRefuses(t *testing.T) {
	for address, headers := range map[string]string{"collector:4318": "", "": "", "http://user:s3cret@bad host": "", "http://c:1": "no pair s3cret", "http://c:2": "a=%zz s3cret"} {
		t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", headers)
		_, err := telemetry.NewForwarder(address, telemetry.NewMetrics("test"), slog.New(slog.DiscardHandler))
		if nimbus.ErrorCode(err) != nimbus.CodeInvalid || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s %q: %v", address, headers, err)
		}
	}
}
