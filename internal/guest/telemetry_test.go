package guest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/guestlink"
)

// startListening starts a job with a receiver, and returns what the job sees.
func startListening(t *testing.T, c *guestlink.Client, env map[string]string, address string) (seen map[string]string, fault string) {
	t.Helper()
	answer, err := c.Start(t.Context(), connect.NewRequest(&nimbusv1.StartRequest{AttemptId: "att", Command: []string{"sh", "-c", "env; read x || sleep 60"}, Env: env,
		Telemetry: &nimbusv1.TelemetryReceiver{Address: address, Env: map[string]string{"TRACEPARENT": "00-1-2-01", "OTEL_SERVICE_NAME": "job"}}}))
	if err != nil {
		t.Fatal(err)
	}
	var r result
	r.follow(t.Context(), t, c, func() bool {
		return strings.Contains(r.stdout.String(), "NIMBUS=1") && strings.Contains(r.stdout.String(), "TRACEPARENT=")
	})
	seen = map[string]string{}
	for line := range strings.Lines(r.stdout.String()) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		seen[name] = value
	}
	return seen, answer.Msg.GetTelemetryFault()
}

// take is one call of the agent's.
func take(t *testing.T, c *guestlink.Client, after, offset int64, v *nimbusv1.TelemetryVerdict) *nimbusv1.TakeTelemetryResponse {
	t.Helper()
	answer, err := c.TakeTelemetry(t.Context(), connect.NewRequest(&nimbusv1.TakeTelemetryRequest{TakenSeq: after, Verdict: v, Offset: offset, Wait: durationpb.New(10 * time.Second)}))
	if err != nil {
		t.Fatal(err)
	}
	return answer.Msg
}

// reply is what a client of the receiver heard.
type reply struct {
	status int
	header http.Header
	body   string
}

// send posts in the background.
func send(t *testing.T, url, contentType string, body []byte) <-chan reply {
	t.Helper()
	out := make(chan reply, 1)
	q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Content-Type", contentType)
	go func() {
		answer, err := http.DefaultClient.Do(q)
		if err != nil {
			out <- reply{body: err.Error()}
			return
		}
		defer answer.Body.Close()
		raw, _ := io.ReadAll(answer.Body)
		out <- reply{answer.StatusCode, answer.Header, string(raw)}
	}()
	return out
}

// TestTelemetryIsHandedOn: requests come to the agent as they were sent, in pieces
// where they are large, and their senders hear its verdict in their own encoding.
func TestTelemetryIsHandedOn(t *testing.T) {
	t.Parallel()
	socket, _ := serveTest(t)
	c := dial(t, socket, testToken)
	seen, fault := startListening(t, c, nil, "127.0.0.1:0")
	url := seen["OTEL_EXPORTER_OTLP_ENDPOINT"]
	if fault != "" || seen["OTEL_EXPORTER_OTLP_PROTOCOL"] != "http/protobuf" || seen["PROMPTFOO_OTEL_ENDPOINT"] != url+"/v1/traces" || seen["TRACEPARENT"] != "00-1-2-01" || seen["OTEL_SERVICE_NAME"] != "job" {
		t.Fatalf("fault %q, the job sees %v", fault, seen)
	}
	large := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	heard := send(t, url+"/v1/logs", "application/x-protobuf", large)
	var got []byte
	for len(got) < len(large) {
		m := take(t, c, 0, int64(len(got)), nil)
		if m.GetSeq() != 1 || m.GetSignal() != "logs" || m.GetSize() != int64(len(large)) || len(m.GetPiece()) == 0 || len(m.GetPiece()) > telemetryPiece {
			t.Fatalf("seq %d of %q, %d of %d bytes", m.GetSeq(), m.GetSignal(), len(m.GetPiece()), m.GetSize())
		}
		got = append(got, m.GetPiece()...)
	}
	if !bytes.Equal(got, large) {
		t.Error("it is not what was sent")
	}
	second := send(t, url+"/", "application/json", []byte("{}")) // as promptfoo does
	m := take(t, c, 1, 0, &nimbusv1.TelemetryVerdict{Status: 200})
	if r := <-heard; r.status != 200 || r.body != "" {
		t.Errorf("the first heard %+v", r)
	}
	if m.GetSeq() != 2 || m.GetSignal() != "traces" || m.GetContentType() != "application/json" || string(m.GetPiece()) != "{}" {
		t.Errorf("the second is %v", m)
	}
	third := send(t, url+"/v1/metrics", "application/json", []byte("["))
	take(t, c, 2, 0, &nimbusv1.TelemetryVerdict{Status: 200, Rejected: 3, Message: `no "room"`})
	if r := <-second; r.status != 200 || r.body != `{"partialSuccess":{"rejectedSpans":"3","errorMessage":"no \"room\""}}` {
		t.Errorf("the second heard %+v", r)
	}
	fourth := send(t, url+"/v1/traces", "application/x-protobuf", nil)
	take(t, c, 3, 0, &nimbusv1.TelemetryVerdict{Status: 503, Message: "later"})
	if r := <-third; r.status != 503 || r.header.Get("Retry-After") == "" || r.body != `{"message":"later"}` {
		t.Errorf("the third heard %+v", r)
	}
	if _, err := c.TakeTelemetry(t.Context(), connect.NewRequest(&nimbusv1.TakeTelemetryRequest{TakenSeq: 4, Verdict: &nimbusv1.TelemetryVerdict{Status: 400, Message: "no"}})); err != nil {
		t.Fatal(err)
	}
	if r := <-fourth; r.status != 400 || r.body != "\x12\x02no" {
		t.Errorf("the fourth heard %+v", r)
	}
	for path, want := range map[string]int{"/v1/profiles": 404, "/metrics": 404, "/mask": 404} {
		if r := <-send(t, url+path, "application/json", nil); r.status != want {
			t.Errorf("%s: %+v", path, r)
		}
	}
}

// TestMasks: what a job sends to be hidden is an event for the agent; who sent it hears
// of it once the agent has that. What can't be hidden is refused.
func TestMasks(t *testing.T) {
	t.Parallel()
	socket, _ := serveTest(t)
	c := dial(t, socket, testToken)
	_, err := c.Start(t.Context(), connect.NewRequest(&nimbusv1.StartRequest{AttemptId: "att", Command: []string{"sh", "-c", "echo url=$NIMBUS_MASK_URL.; sleep 60"},
		Env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://elsewhere"}, Telemetry: &nimbusv1.TelemetryReceiver{Address: "127.0.0.1:0", Masks: true}}))
	if err != nil {
		t.Fatal(err)
	}
	var r result
	r.follow(t.Context(), t, c, func() bool { return strings.HasSuffix(r.stdout.String(), ".\n") })
	url := strings.TrimSuffix(strings.TrimPrefix(r.stdout.String(), "url="), ".\n")
	for body, want := range map[string]int{"": 400, "abc\n": 400, strings.Repeat("x", maskBytes+1): 413} {
		if got := <-send(t, url, "", []byte(body)); got.status != want {
			t.Errorf("%d bytes: %+v", len(body), got)
		}
	}
	q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("by GET: %s", answer.Status)
	}
	heard := send(t, url, "", []byte("hide me\nand me\n"))
	stream, err := c.Watch(t.Context(), connect.NewRequest(&nimbusv1.WatchRequest{FromSeq: r.last + 1}))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if !stream.Receive() {
		t.Fatal(stream.Err())
	}
	if out := stream.Msg().GetOutput(); out.GetStream() != streamMask || string(out.GetData()) != "hide me\nand me" {
		t.Errorf("the agent hears %v", stream.Msg())
	}
	select {
	case got := <-heard:
		t.Errorf("before the agent has it its sender hears %+v", got)
	default:
	}
	if _, err := c.Acknowledge(t.Context(), connect.NewRequest(&nimbusv1.AcknowledgeRequest{Seq: stream.Msg().GetSeq()})); err != nil {
		t.Fatal(err)
	}
	if got := <-heard; got.status != http.StatusNoContent {
		t.Errorf("its sender hears %+v", got)
	}
}

// TestTelemetryEnvironment: a job that says where its telemetry goes is not told
// otherwise.
func TestTelemetryEnvironment(t *testing.T) {
	t.Parallel()
	for name, own := range map[string]map[string]string{
		"an endpoint": {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://elsewhere"},
		"of traces":   {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://elsewhere", "TRACEPARENT": "mine", "OTEL_SERVICE_NAME": "mine"},
		"a protocol":  {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			socket, _ := serveTest(t)
			seen, _ := startListening(t, dial(t, socket, testToken), own, "127.0.0.1:0")
			for _, variable := range []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_PROTOCOL", "PROMPTFOO_OTEL_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"} {
				if seen[variable] != own[variable] {
					t.Errorf("%s=%s, its own is %q", variable, seen[variable], own[variable])
				}
			}
			for variable, value := range own {
				if seen[variable] != value {
					t.Errorf("%s=%s, its own is %q", variable, seen[variable], value)
				}
			}
		})
	}
}

// TestTelemetryPortTaken: a port that somebody has is told, and the job runs.
func TestTelemetryPortTaken(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	socket, _ := serveTest(t)
	c := dial(t, socket, testToken)
	seen, fault := startListening(t, c, nil, l.Addr().String())
	if !strings.Contains(fault, "address already in use") || seen["OTEL_EXPORTER_OTLP_ENDPOINT"] != "" {
		t.Errorf("fault %q, endpoint %q", fault, seen["OTEL_EXPORTER_OTLP_ENDPOINT"])
	}
	if m := take(t, c, 0, 0, nil); !m.GetEnded() {
		t.Errorf("got %v", m)
	}
}

// TestTelemetryIsBounded: what finds no room is refused for now and counted; a
// sender that the agent leaves waiting is let go, and what it sent is kept. What the
// agent then has no room for is counted, too: nobody sends it again.
func TestTelemetryIsBounded(t *testing.T) {
	t.Parallel()
	socket, _ := serveTest(t)
	c := dial(t, socket, testToken)
	seen, _ := startListening(t, c, nil, "127.0.0.1:0")
	url := seen["OTEL_EXPORTER_OTLP_ENDPOINT"] + "/v1/traces"
	if r := <-send(t, url, "application/json", make([]byte, telemetryBody+1)); r.status != 413 {
		t.Errorf("a large one: %+v", r)
	}
	body := make([]byte, telemetryBody)
	var heard []<-chan reply
	for range 3 {
		heard = append(heard, send(t, url, "application/json", body))
	}
	for _, one := range heard {
		if r := <-one; r.status != 200 {
			t.Errorf("one that is kept: %+v", r)
		}
	}
	if r := <-send(t, url, "application/json", body); r.status != 503 || r.header.Get("Retry-After") == "" {
		t.Errorf("one too many: %+v", r)
	}
	if m := take(t, c, 1, 0, &nimbusv1.TelemetryVerdict{Status: 400}); m.GetSeq() != 2 || m.GetRefused() != 1 { // the agent's to count
		t.Errorf("seq %d, %d refused", m.GetSeq(), m.GetRefused())
	}
	if m := take(t, c, 2, 0, &nimbusv1.TelemetryVerdict{Status: 503}); m.GetSeq() != 3 || m.GetRefused() != 2 {
		t.Errorf("seq %d, %d refused", m.GetSeq(), m.GetRefused())
	}
	r := send(t, url, "application/json", body)
	if take(t, c, 3, 0, nil).GetSeq() != 4 {
		t.Errorf("with room again: %+v", <-r)
	}
	if answer, err := c.TakeTelemetry(t.Context(), connect.NewRequest(&nimbusv1.TakeTelemetryRequest{TakenSeq: 4, Verdict: &nimbusv1.TelemetryVerdict{Status: 503}})); err != nil || answer.Msg.GetRefused() != 2 {
		t.Errorf("one that is heard is counted: %v, %v", answer, err)
	}
	if got := <-r; got.status != 503 {
		t.Errorf("who still waits hears %+v", got)
	}
}

// TestTelemetryEnds: what was sent before the job's end is there after it, then the
// end is.
func TestTelemetryEnds(t *testing.T) {
	t.Parallel()
	socket, _ := serveTest(t)
	c := dial(t, socket, testToken)
	seen, _ := startListening(t, c, nil, "127.0.0.1:0")
	url := seen["OTEL_EXPORTER_OTLP_ENDPOINT"] + "/v1/traces"
	heard := send(t, url, "application/json", []byte("last words"))
	if m := take(t, c, 0, 0, nil); string(m.GetPiece()) != "last words" || m.GetEnded() {
		t.Errorf("got %v", m)
	}
	if _, err := c.Signal(t.Context(), connect.NewRequest(&nimbusv1.SignalRequest{Signal: "SIGKILL"})); err != nil {
		t.Fatal(err)
	}
	<-heard
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for { // the end waits for what was under way
		m := take(t, c, 0, 0, nil)
		if string(m.GetPiece()) != "last words" {
			t.Fatalf("got %v", m)
		}
		if r := <-send(t, url, "application/json", nil); r.status == 0 {
			break
		}
		if ctx.Err() != nil {
			t.Fatal("it listens on after the job")
		}
	}
	for after := int64(1); ; after++ {
		m := take(t, c, after, 0, &nimbusv1.TelemetryVerdict{Status: 200})
		if m.GetEnded() {
			break
		}
	}
}

func TestTelemetryAnswersAreJSON(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"plain", "a \"quote\"", "a\nline\x00", "\xff"} {
		var v struct {
			Message string `json:"message"`
		}
		w := &recorder{header: http.Header{}}
		q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Content-Type", "application/json")
		answerTelemetry(w, q, "traces", &nimbusv1.TelemetryVerdict{Status: 400, Message: text})
		if err := json.Unmarshal(w.body.Bytes(), &v); err != nil || v.Message == "" {
			t.Errorf("%q: %s, %v", text, fmt.Sprint(w.body.String()), err)
		}
	}
}

type recorder struct {
	header http.Header
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) Write(p []byte) (int, error) { return r.body.Write(p) }
func (r *recorder) WriteHeader(int)             {}
