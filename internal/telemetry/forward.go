package telemetry

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/telemetry/otlp"
)

// Bounds of what is sent on. At each, what is new is dropped and counted.
const (
	forwardMost    = 1024     // batches that wait
	forwardBytes   = 32 << 20 // of them together
	forwardTimeout = 10 * time.Second
)

// What becomes of a batch.
const (
	forwardSent    = "sent"
	forwardFailed  = "failed"
	forwardDropped = "dropped"
)

type forwarded struct {
	jobID string
	nimbus.TelemetryBatch
}

// Forwarder sends on what jobs told by OTLP, to where the traces of jobs go. It
// implements traces.Forwarder and lifecycle.Service.
type Forwarder struct {
	base    *url.URL
	header  http.Header
	client  *http.Client
	waiting chan forwarded
	room    chan int // holds how many bytes wait
	count   func(outcome string)
	log     *slog.Logger
}

// NewForwarder returns one that sends to the OTLP endpoint of a base URL, with the
// headers of OTEL_EXPORTER_OTLP_HEADERS. Codes: invalid.
func NewForwarder(endpoint string, m *Metrics, log *slog.Logger) (*Forwarder, error) {
	base, err := otlpBase(endpoint)
	if err != nil {
		return nil, err
	}
	header, err := otlpHeaders(os.Getenv("OTEL_EXPORTER_OTLP_HEADERS"))
	if err != nil {
		return nil, err
	}
	f := &Forwarder{base: base, header: header, waiting: make(chan forwarded, forwardMost), room: make(chan int, 1), log: log,
		client: &http.Client{Timeout: forwardTimeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		count:  func(outcome string) { m.sent.forwarded.WithLabelValues(outcome).Inc() }}
	f.room <- 0
	return f, nil
}

// otlpHeaders reads the standard's list: key=value, with values percent-encoded.
func otlpHeaders(list string) (http.Header, error) {
	header := http.Header{}
	for pair := range strings.SplitSeq(list, ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		name, value, ok := strings.Cut(pair, "=")
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if !ok || err != nil || strings.ContainsAny(name+value, "\r\n") {
			return nil, nimbus.Errorf(nimbus.CodeInvalid, "OTEL_EXPORTER_OTLP_HEADERS is no list of name=value") // the values are secret
		}
		header.Set(strings.TrimSpace(name), value)
	}
	return header, nil
}

// Forward implements traces.Forwarder.
func (f *Forwarder) Forward(jobID string, b nimbus.TelemetryBatch) {
	size := <-f.room
	kept := false
	if size+len(b.Data) <= forwardBytes {
		select {
		case f.waiting <- forwarded{jobID, b}:
			kept, size = true, size+len(b.Data)
		default:
		}
	}
	f.room <- size
	if !kept {
		f.count(forwardDropped)
	}
}

// Name implements lifecycle.Service.
func (*Forwarder) Name() string { return "telemetry sent on" }

// Run implements lifecycle.Service: it sends until ctx ends, and then what there is
// for a while.
func (f *Forwarder) Run(ctx context.Context, ready func()) error {
	ready()
	down := false
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case b := <-f.waiting:
			down = f.send(ctx, b, down)
		}
	}
	rest, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	defer cancel()
	for len(f.waiting) > 0 && rest.Err() == nil {
		down = f.send(rest, <-f.waiting, down)
	}
	return nil
}

// send sends one batch, and tells when the endpoint goes and when it is back.
func (f *Forwarder) send(ctx context.Context, b forwarded, down bool) bool {
	f.room <- <-f.room - len(b.Data)
	err := f.post(ctx, b)
	switch {
	case err != nil && !down:
		f.log.WarnContext(ctx, "telemetry of jobs can't be sent on, it is dropped", "error", err)
	case err == nil && down:
		f.log.InfoContext(ctx, "telemetry of jobs is sent on again")
	}
	if err != nil {
		f.count(forwardFailed)
		return true
	}
	f.count(forwardSent)
	return false
}

func (f *Forwarder) post(ctx context.Context, b forwarded) error {
	batch, err := otlp.Open(b.Signal, b.Data)
	if err != nil {
		return err
	}
	batch.Confine(b.jobID) // what a job sends does not come into another's trace there
	body, err := batch.Request()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, forwardTimeout)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, f.base.JoinPath("v1", string(b.Signal)).String(), bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("make a request: %w", err)
	}
	q.Header = f.header.Clone()
	q.Header.Set("Content-Type", "application/x-protobuf")
	answer, err := f.client.Do(q)
	if err != nil {
		return fmt.Errorf("send telemetry on: %w", err)
	}
	defer answer.Body.Close()
	const enough = 64 << 10 // for the connection to be used again
	_, _ = io.CopyN(io.Discard, answer.Body, enough)
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("send telemetry on: the endpoint answers %s", answer.Status)
	}
	return nil
}
