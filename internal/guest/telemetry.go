package guest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/net/netutil"
	"google.golang.org/protobuf/encoding/protowire"

	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// Bounds of the receiver. What it holds is memory of the sandbox, which is the job's.
const (
	telemetryBody  = 4 << 20  // of one request, as it is sent
	telemetryBound = 16 << 20 // of all that the agent has not taken
	telemetryCost  = 4 << 10  // of one beside its body
	telemetryConns = 128
	telemetryRead  = 15 * time.Second // to read one
	// telemetryAnswer is how long a sender waits to hear what became of its request.
	// One that hears nothing is told that it was taken: it is kept here until the
	// agent is back.
	telemetryAnswer = 2 * time.Second
	// telemetryRest is how long what was under way at the job's end may take.
	telemetryRest = time.Second
	// telemetryPiece is the most that one answer to the agent carries.
	telemetryPiece = 512 << 10
	telemetryWait  = 30 * time.Second
)

// maskPath is where the job says what is to be hidden: GitHub's runner keeps to itself
// what it was told by ::add-mask::.
const (
	maskPath   = "/mask"
	maskBytes  = 16 << 10
	minMask    = 4 // shorter ones are in every second line by chance
	maskAnswer = 10 * time.Second
)

// telemetryPaths are where signals come in. promptfoo takes the base URL for that
// of traces.
var telemetryPaths = map[string]string{"/v1/traces": "traces", "/v1/logs": "logs", "/v1/metrics": "metrics", "/": "traces"}

// parcel is one request that waits for the agent.
type parcel struct {
	seq                             int64
	signal, contentType, contentEnc string
	body                            []byte
	verdict                         chan *nimbusv1.TelemetryVerdict // holds one
	alone                           bool                            // its sender waits no longer
	written                         []int64                         // how much output came before it
	outputSeq                       int64                           // the event that has the last of that, 0 until there is one
}

// receiver takes what the job tells by OTLP over HTTP, and hands it on as it came:
// it reads nothing of it, since whatever a sandbox says is for the agent to judge.
type receiver struct {
	url string // "" when nobody listens
	// hide has a text hidden, and tells whether it is by now; nil where that can't be.
	hide  func(ctx context.Context, secret []byte) bool
	heard *events // of the job

	job atomic.Pointer[process] // nil until it runs

	mu      sync.Mutex
	waiting []*parcel
	last    int64 // number of the newest
	size    int   // what is waiting, or being read, takes
	refused int64
	ended   bool
	changed chan struct{}
}

func newReceiver(heard *events) *receiver {
	return &receiver{heard: heard, changed: make(chan struct{})}
}

// notify wakes all that wait. Called with mu held.
func (r *receiver) notify() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// listen serves until over is closed.
func (r *receiver) listen(address string, over <-chan struct{}) error {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", address)
	if err != nil {
		r.end()
		return fmt.Errorf("listen for OTLP: %w", err)
	}
	r.url = "http://" + l.Addr().String()
	server := &http.Server{Handler: r, ReadHeaderTimeout: telemetryRead, ReadTimeout: telemetryRead, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: log.New(io.Discard, "", 0)}
	served := make(chan struct{})
	go func() { // ends with the job
		defer close(served)
		_ = server.Serve(netutil.LimitListener(l, telemetryConns)) // its end is the shutdown, or the kernel's
	}()
	go func() {
		<-over
		rest, cancel := context.WithTimeout(context.Background(), telemetryRest)
		defer cancel()
		if server.Shutdown(rest) != nil {
			_ = server.Close()
		}
		<-served
		r.end()
	}()
	return nil
}

// end says that nothing follows.
func (r *receiver) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	r.notify()
}

// ServeHTTP implements http.Handler.
func (r *receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	if q.URL.Path == maskPath && r.hide != nil {
		r.mask(w, q)
		return
	}
	signal, ok := telemetryPaths[q.URL.Path]
	v := &nimbusv1.TelemetryVerdict{}
	switch {
	case !ok:
		v.Status, v.Message = http.StatusNotFound, "OTLP goes to /v1/traces, /v1/logs and /v1/metrics"
	case q.Method != http.MethodPost:
		v.Status, v.Message = http.StatusMethodNotAllowed, "OTLP is sent by POST"
		w.Header().Set("Allow", http.MethodPost)
	case q.ContentLength > telemetryBody:
		v.Status, v.Message = http.StatusRequestEntityTooLarge, fmt.Sprintf("the body has %d bytes, more than %d: send smaller batches", q.ContentLength, telemetryBody)
	default:
		v = r.take(w, q, signal)
	}
	answerTelemetry(w, q, signal, v)
}

// mask has the body of a request hidden. Who hears 204 can rely on it.
func (r *receiver) mask(w http.ResponseWriter, q *http.Request) {
	if q.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "what is to be hidden is sent by POST", http.StatusMethodNotAllowed)
		return
	}
	secret, err := io.ReadAll(http.MaxBytesReader(w, q.Body, maskBytes))
	var large *http.MaxBytesError
	switch secret = bytes.TrimSpace(secret); {
	case errors.As(err, &large):
		http.Error(w, fmt.Sprintf("at most %d bytes can be hidden at once", maskBytes), http.StatusRequestEntityTooLarge)
		return
	case err != nil:
		http.Error(w, "the body can't be read", http.StatusBadRequest)
		return
	case len(secret) < minMask:
		http.Error(w, fmt.Sprintf("what has fewer than %d bytes is not hidden", minMask), http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(q.Context(), maskAnswer)
	defer cancel()
	if !r.hide(ctx, secret) {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "the host has not heard of it yet: try again", http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// take reads a request, hands it to the agent and waits for what becomes of it.
func (r *receiver) take(w http.ResponseWriter, q *http.Request, signal string) *nimbusv1.TelemetryVerdict {
	room := telemetryCost + telemetryBody
	if q.ContentLength >= 0 {
		room = telemetryCost + int(q.ContentLength)
	}
	if !r.reserve(room) {
		return &nimbusv1.TelemetryVerdict{Status: http.StatusServiceUnavailable, Message: "the host has not taken what was sent before: try again"}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, q.Body, telemetryBody))
	if err != nil {
		r.free(room)
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return &nimbusv1.TelemetryVerdict{Status: http.StatusRequestEntityTooLarge, Message: fmt.Sprintf("the body has more than %d bytes: send smaller batches", telemetryBody)}
		}
		return &nimbusv1.TelemetryVerdict{Status: http.StatusBadRequest, Message: "the body can't be read"}
	}
	p := &parcel{signal: signal, contentType: clip(q.Header.Get("Content-Type")), contentEnc: clip(q.Header.Get("Content-Encoding")), body: body, verdict: make(chan *nimbusv1.TelemetryVerdict, 1)}
	if !r.put(p, room) {
		return &nimbusv1.TelemetryVerdict{Status: http.StatusServiceUnavailable, Message: "the job has ended"}
	}
	patience := time.NewTimer(telemetryAnswer)
	defer patience.Stop()
	select {
	case v := <-p.verdict:
		return v
	case <-patience.C:
	case <-q.Context().Done():
	}
	return r.leave(p)
}

// leave is what the sender of a request is told who waits no longer.
func (r *receiver) leave(p *parcel) *nimbusv1.TelemetryVerdict {
	r.mu.Lock()
	defer r.mu.Unlock()
	p.alone = true
	select {
	case v := <-p.verdict: // just in time
		return v
	default:
		return &nimbusv1.TelemetryVerdict{Status: http.StatusOK}
	}
}

func clip(header string) string { return header[:min(len(header), 256)] }

// reserve takes room for a request. Where there is none, that is counted.
func (r *receiver) reserve(n int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.size+n > telemetryBound {
		r.refused++
		return false
	}
	r.size += n
	return true
}

func (r *receiver) free(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.size -= n
}

// put adds a request whose room was reserved.
func (r *receiver) put(p *parcel, room int) bool {
	if job := r.job.Load(); job != nil {
		p.written = job.written()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.size -= room
	if r.ended {
		r.refused++
		return false
	}
	r.size += len(p.body) + telemetryCost
	r.last++
	p.seq = r.last
	r.waiting = append(r.waiting, p)
	r.notify()
	return true
}

// taken frees what the agent has, and has a sender hear what became of the last.
func (r *receiver) taken(seq int64, v *nimbusv1.TelemetryVerdict) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for n < len(r.waiting) && r.waiting[n].seq <= seq {
		p := r.waiting[n]
		switch {
		case p.seq != seq || v.GetStatus() == 0:
		case !p.alone:
			p.verdict <- v // holds one, and p goes
		case v.GetStatus() == http.StatusServiceUnavailable:
			r.refused++ // nobody hears that it is to be sent again
		}
		r.size -= len(p.body) + telemetryCost
		r.waiting[n] = nil
		n++
	}
	r.waiting = r.waiting[n:]
}

// next waits for the first request that the agent has not taken. It returns nil at
// the end of wait, or when there will be no more.
func (r *receiver) next(ctx context.Context, wait time.Duration) *parcel {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		r.mu.Lock()
		var first *parcel
		if len(r.waiting) > 0 {
			first = r.waiting[0]
		}
		ended, changed := r.ended, r.changed
		r.mu.Unlock()
		var output <-chan struct{}
		switch {
		case first != nil:
			var ready bool
			if ready, output = r.ready(first); ready {
				return first
			}
		case ended:
			return nil
		}
		select {
		case <-changed:
		case <-output:
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// ready tells whether the output is in the events that was written before a request, and
// else what is closed once there is more.
func (r *receiver) ready(p *parcel) (ok bool, more <-chan struct{}) {
	_, more = r.heard.newest()
	r.mu.Lock()
	defer r.mu.Unlock()
	if job := r.job.Load(); job != nil {
		if p.written == nil { // it came before the job was known here
			p.written = job.written()
		}
		if !job.has(p.written) {
			return false, more
		}
	}
	last, _ := r.heard.newest()
	if p.outputSeq == 0 {
		p.outputSeq = last
	}
	return true, nil
}

// over tells whether nothing is left, and how much found no room.
func (r *receiver) over() (ended bool, refused int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ended && len(r.waiting) == 0, r.refused
}

// announce gives the job the variables by which clients find the receiver. What the
// job's environment says comes first: one that sends elsewhere goes on to.
func (r *receiver) announce(start *nimbusv1.StartRequest) {
	if start.Env == nil {
		start.Env = map[string]string{}
	}
	give := func(name, value string) {
		if _, has := start.Env[name]; !has {
			start.Env[name] = value
		}
	}
	if r.url != "" && r.hide != nil {
		give("NIMBUS_MASK_URL", r.url+maskPath)
	}
	if r.url != "" && !sendsElsewhere(start.GetEnv()) {
		give("OTEL_EXPORTER_OTLP_ENDPOINT", r.url)
		give("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
		give("PROMPTFOO_OTEL_ENDPOINT", r.url+"/v1/traces")
	}
	for name, value := range start.GetTelemetry().GetEnv() {
		give(name, value)
	}
}

// openReceiver listens where a job is to have somebody listen; once, also where a
// start is tried again.
func (s *service) openReceiver(start *nimbusv1.StartRequest, heard *events) {
	if start.GetTelemetry() == nil {
		return
	}
	if s.receiver == nil {
		s.receiver = newReceiver(heard)
		if start.GetTelemetry().GetMasks() {
			s.receiver.hide = heard.hide
		}
		if err := s.receiver.listen(start.GetTelemetry().GetAddress(), heard.end); err != nil {
			s.receiverFault = err.Error()
		}
	}
	s.receiver.announce(start)
}

// sendsElsewhere tells whether an environment says where OTLP goes, or how.
func sendsElsewhere(env map[string]string) bool {
	for name := range env {
		if strings.HasPrefix(name, "OTEL_EXPORTER_OTLP_") && (strings.HasSuffix(name, "ENDPOINT") || strings.HasSuffix(name, "PROTOCOL")) {
			return true
		}
	}
	return false
}

func (s *service) TakeTelemetry(ctx context.Context, r *connect.Request[nimbusv1.TakeTelemetryRequest]) (*connect.Response[nimbusv1.TakeTelemetryResponse], error) {
	s.mu.Lock()
	in := s.receiver
	s.mu.Unlock()
	if in == nil {
		return connect.NewResponse(&nimbusv1.TakeTelemetryResponse{Ended: true}), nil
	}
	in.taken(r.Msg.GetTakenSeq(), r.Msg.GetVerdict())
	p := in.next(ctx, min(max(r.Msg.GetWait().AsDuration(), 0), telemetryWait))
	out := &nimbusv1.TakeTelemetryResponse{}
	out.Ended, out.Refused = in.over()
	if p != nil {
		from := min(max(r.Msg.GetOffset(), 0), int64(len(p.body)))
		out.Seq, out.Signal, out.ContentType, out.ContentEncoding, out.Size = p.seq, p.signal, p.contentType, p.contentEnc, int64(len(p.body))
		out.OutputSeq = p.outputSeq
		out.Piece = p.body[from:min(from+telemetryPiece, int64(len(p.body)))]
	}
	return connect.NewResponse(out), nil
}

// rejectedNames are how a partial success calls what was not taken, by signal.
var rejectedNames = map[string]string{"traces": "rejectedSpans", "logs": "rejectedLogRecords", "metrics": "rejectedDataPoints"}

// answerTelemetry answers as OTLP has it, in the encoding of the request: a
// response with what was not taken, or a status of google.rpc. Both have two
// fields, so no message is made of them.
func answerTelemetry(w http.ResponseWriter, q *http.Request, signal string, v *nimbusv1.TelemetryVerdict) {
	status := int(v.GetStatus())
	if status < http.StatusOK || status > 599 {
		status = http.StatusInternalServerError
	}
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	message := strings.ToValidUTF8(v.GetMessage(), "?")
	partial := status == http.StatusOK && (v.GetRejected() > 0 || message != "")
	if strings.HasPrefix(q.Header.Get("Content-Type"), "application/json") {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		switch {
		case partial:
			fmt.Fprintf(w, `{"partialSuccess":{%q:"%d","errorMessage":%s}}`, rejectedNames[signal], v.GetRejected(), quoted(message))
		case status == http.StatusOK:
			fmt.Fprint(w, "{}")
		default:
			fmt.Fprintf(w, `{"message":%s}`, quoted(message))
		}
		return
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	w.WriteHeader(status)
	const text = 2 // the field of a message's words, in both
	switch {
	case partial:
		inner := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), uint64(v.GetRejected()))
		inner = protowire.AppendString(protowire.AppendTag(inner, text, protowire.BytesType), message)
		w.Write(protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), inner))
	case status != http.StatusOK:
		w.Write(protowire.AppendString(protowire.AppendTag(nil, text, protowire.BytesType), message))
	}
}

func quoted(text string) []byte {
	raw, err := json.Marshal(text)
	if err != nil {
		return []byte(`""`) // no text is none of JSON
	}
	return raw
}
