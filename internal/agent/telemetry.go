package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/logs/lines"
	"github.com/nimbus-ci/nimbus/internal/telemetry/otlp"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

const (
	// otlpAddress is the port of the standard, on the sandbox's own loopback.
	otlpAddress = "127.0.0.1:4318"
	// telemetryWait is how long one call waits for the guest to have something.
	telemetryWait = 20 * time.Second
	// telemetryFlush is how long the rest may take once the job has ended.
	telemetryFlush = 10 * time.Second
	// telemetryTold is how long the job's log then waits to hear whether the server
	// has room for what is kept.
	telemetryTold = 2 * time.Second
	// decodingAtOnce bounds how many bodies are in memory, decoded: one takes some
	// hundred MiB at the worst.
	decodingAtOnce = 2
	// dearBody is what a body may cost before its job waits as long again: one that
	// sends nothing but such bodies takes no more than half of a CPU's time.
	dearBody = 50 * time.Millisecond
	// telemetryBytes is how much one call to the server carries, more or less.
	telemetryBytes = 2 << 20
	maxFault       = 300 // of a guest's words
)

func clipFault(fault string) string {
	return strings.ToValidUTF8(fault[:min(len(fault), maxFault)], "?")
}

// telemetryReceiver is the job's receiver of OTLP; nil for none.
func (t *attempt) telemetryReceiver() *nimbusv1.TelemetryReceiver {
	if !t.assign.Telemetry {
		return nil
	}
	r := &nimbusv1.TelemetryReceiver{Address: otlpAddress, Masks: true, Env: map[string]string{
		"OTEL_SERVICE_NAME": t.serviceName(), "TRACEPARENT": nimbus.TraceParent(t.assign.JobID),
	}}
	if t.assign.Class.Executor == nimbus.ExecutorLocal {
		r.Address = "127.0.0.1:0" // the loopback is the host's, and every job's
	}
	var pairs []string
	for _, a := range t.identity() {
		if a.Value != "" {
			pairs = append(pairs, a.Key+"="+url.PathEscape(a.Value)) // a space is no "+" there
		}
	}
	r.Env["OTEL_RESOURCE_ATTRIBUTES"] = strings.Join(pairs, ",")
	return r
}

// serviceName is what a program is called that does not say.
func (t *attempt) serviceName() string {
	const most = 128
	name := strings.Map(func(r rune) rune {
		if r < ' ' {
			return -1
		}
		return r
	}, t.assign.Name)
	if name == "" {
		return "job"
	}
	return strings.ToValidUTF8(name[:min(len(name), most)], "")
}

// identity is what a host says of whom telemetry is. Of a job of GitHub's it does
// not know the repository: which job its runner has, the control plane finds out.
func (t *attempt) identity() []otlp.Attribute {
	a := t.assign
	return []otlp.Attribute{
		{Key: "nimbus.org.id", Value: a.OrgID}, {Key: "nimbus.job.id", Value: a.JobID}, {Key: "nimbus.attempt.id", Value: a.AttemptID},
		{Key: "nimbus.job.source", Value: string(a.Source)}, {Key: "nimbus.class.id", Value: a.Class.ID()},
		{Key: "cicd.pipeline.task.name", Value: t.serviceName()}, {Key: "cicd.pipeline.task.run.id", Value: a.JobID},
		{Key: "cicd.worker.name", Value: t.agent.cfg.Name},
	}
}

// takeTelemetry brings what the job tells to disk, beside its output, and returns
// what waits for the rest once the job has ended, and tells what was lost.
func (g *guest) takeTelemetry(ctx context.Context) (rest func() (lost string)) {
	if !g.t.assign.Telemetry {
		return func() string { return "" }
	}
	taking, cancel := context.WithCancel(ctx)
	x := newTaker(g.t)
	var work sync.WaitGroup
	work.Go(func() {
		if err := x.run(taking, g); err != nil && taking.Err() == nil {
			g.t.log.WarnContext(ctx, "take the job's telemetry", "error", err)
		}
	})
	return func() string {
		close(x.quiet)
		timer := time.AfterFunc(telemetryFlush, cancel)
		defer timer.Stop()
		work.Wait()
		cancel()
		told, done := context.WithTimeout(ctx, telemetryTold)
		defer done()
		g.t.spool.awaitEmpty(told)
		return x.lostWords()
	}
}

// teller is a guest, for who takes its telemetry.
type teller interface {
	TakeTelemetry(ctx context.Context, r *connect.Request[nimbusv1.TakeTelemetryRequest]) (*connect.Response[nimbusv1.TakeTelemetryResponse], error)
}

// taker takes one attempt's telemetry from its guest.
type taker struct {
	t       *attempt
	seq     int64 // of the last request that is in
	anew    bool  // none came yet
	verdict *nimbusv1.TelemetryVerdict
	refused int64 // requests for which there was no room
	lost    int64 // items that were not kept
	why     string

	// What hides the job's secrets, of which there only come more.
	veil   lines.Veil
	masked int
	hides  bool  // at least one
	event  int64 // of the job's output, up to which they are known

	outputSeq int64         // of the output before the request that was received last
	quiet     chan struct{} // closed once no more output will come
}

func newTaker(t *attempt) *taker {
	x := &taker{t: t, seq: t.spool.takenSeq(), anew: true, event: -1, quiet: make(chan struct{})}
	if x.seq > 0 { // whoever sent it may still wait
		x.verdict = &nimbusv1.TelemetryVerdict{Status: http.StatusOK}
	}
	return x
}

// run takes requests until the guest has no more, or is gone. A broken connection
// is made anew by who follows the job's output.
func (x *taker) run(ctx context.Context, g *guest) error {
	var pause backoff
	for {
		c, err := g.connect(ctx)
		if err == nil {
			var ended bool
			if ended, err = x.take(ctx, c); err == nil {
				if ended {
					return nil
				}
				pause = backoff{}
				continue
			}
		}
		if connect.CodeOf(err) == connect.CodeUnimplemented {
			return nil // a guest of before
		}
		if !broken(err) {
			return err
		}
		select {
		case <-g.dead:
			return nil
		default:
		}
		if !pause.wait(ctx) {
			return nil
		}
	}
}

// take brings one request in. ended tells that there is no more.
func (x *taker) take(ctx context.Context, c teller) (ended bool, err error) {
	r, err := x.receive(ctx, c)
	if err != nil || r == nil {
		return err == nil && r == nil, err
	}
	if r.Body == nil { // none yet
		return false, nil
	}
	if !x.awaitOutput(ctx) {
		return false, ctx.Err()
	}
	began := time.Now()
	verdict, kept := x.keep(ctx, *r)
	if !kept && ctx.Err() != nil {
		return false, ctx.Err()
	}
	if took := time.Since(began); took > dearBody { // others' work comes in between
		select {
		case <-time.After(took):
		case <-ctx.Done():
		}
	}
	x.seq, x.verdict = x.seq+1, verdict
	return false, nil
}

// receive asks for the next request, piece by piece. It is nil at the end, and has
// no body where there is none yet. What a guest says is the tenant's.
func (x *taker) receive(ctx context.Context, c teller) (*otlp.Request, error) {
	var r otlp.Request
	for {
		asking, cancel := context.WithTimeout(ctx, telemetryWait+guestTimeout)
		answer, err := c.TakeTelemetry(asking, connect.NewRequest(&nimbusv1.TakeTelemetryRequest{
			TakenSeq: x.seq, Verdict: x.verdict, Offset: int64(len(r.Body)), Wait: durationpb.New(telemetryWait),
		}))
		cancel()
		if err != nil {
			return nil, err
		}
		m := answer.Msg
		x.refused = m.GetRefused()
		if x.anew && m.GetSeq() > x.seq {
			// The agent before this one had those in between, too: what it refused it
			// kept nothing of.
			x.anew, x.seq, x.verdict = false, m.GetSeq()-1, nil
		}
		switch {
		case m.GetSeq() == 0 && m.GetEnded():
			return nil, nil
		case m.GetSeq() == 0:
			return &otlp.Request{}, nil
		case m.GetSeq() != x.seq+1, m.GetSize() > otlp.MaxBody, m.GetSize() < 0, int64(len(r.Body)+len(m.GetPiece())) > m.GetSize(),
			len(m.GetPiece()) == 0 && m.GetSize() > int64(len(r.Body)):
			return nil, &protocolError{fmt.Sprintf("request %d of %d bytes follows request %d", m.GetSeq(), m.GetSize(), x.seq)}
		}
		if r.Body == nil {
			x.outputSeq = m.GetOutputSeq()
			r = otlp.Request{Signal: nimbus.Signal(m.GetSignal()), ContentType: m.GetContentType(), Encoding: m.GetContentEncoding(), Body: []byte{}}
		}
		if r.Body = append(r.Body, m.GetPiece()...); int64(len(r.Body)) == m.GetSize() {
			return &r, nil
		}
	}
}

// awaitOutput waits until the output is on disk that the job wrote before the request:
// it may name what is to be hidden. A guest that names output which never comes has its
// own job's telemetry wait. It returns false where ctx ended before.
func (x *taker) awaitOutput(ctx context.Context) bool {
	for {
		changed := x.t.wal.Changed()
		if _, at := x.t.wal.Last(); at.Event >= x.outputSeq {
			return true
		}
		select {
		case <-changed:
		case <-x.quiet:
			return ctx.Err() == nil
		case <-ctx.Done():
			return false
		}
	}
}

// keep puts a request on disk, and says what its sender is to hear.
func (x *taker) keep(ctx context.Context, r otlp.Request) (v *nimbusv1.TelemetryVerdict, kept bool) {
	x.learn() // while nobody waits for a place
	select {
	case x.t.agent.decoding <- struct{}{}:
	case <-ctx.Done():
		return nil, false
	}
	defer func() { <-x.t.agent.decoding }()
	refuse := func(err error) (*nimbusv1.TelemetryVerdict, bool) {
		refusal := otlp.AsRefusal(err)
		if refusal.Status != http.StatusServiceUnavailable { // else it is sent again; the guest counts what nobody heard of
			x.lost, x.why = x.lost+1, refusal.Message
		}
		return &nimbusv1.TelemetryVerdict{Status: int32(refusal.Status), Message: refusal.Message}, false
	}
	if x.t.spool.isClosed() { // for good: who tries again would do so for nothing
		x.lost, x.why = x.lost+1, noRoom
		return &nimbusv1.TelemetryVerdict{Status: http.StatusOK, Rejected: 1, Message: noRoom}, false
	}
	b, err := otlp.Decode(r)
	if err != nil {
		return refuse(err)
	}
	b.Stamp(x.t.identity())
	b.Received(time.Now())
	x.hide(b)
	batch, some, err := b.Encode()
	if err != nil {
		return refuse(err)
	}
	v = &nimbusv1.TelemetryVerdict{Status: http.StatusOK, Rejected: b.Rejected, Message: b.Why}
	x.lost += b.Rejected
	if b.Why != "" {
		x.why = b.Why
	}
	if !some {
		return v, false
	}
	switch err := x.t.spool.add(batch, x.seq+1); {
	case errors.Is(err, errSpoolClosed):
		x.lost, x.why = x.lost+int64(batch.Items), noRoom
		return &nimbusv1.TelemetryVerdict{Status: http.StatusOK, Rejected: b.Rejected + int64(batch.Items), Message: noRoom}, false
	case errors.Is(err, errSpoolFull):
		return refuse(&otlp.RefusalError{Status: http.StatusServiceUnavailable, Message: "the server has not taken what was sent before: try again"})
	case err != nil:
		x.t.log.WarnContext(ctx, "keep the job's telemetry", "error", err)
		return refuse(err)
	}
	return v, true
}

const noRoom = "there is no room for more telemetry of this job or its org"

// learn makes ready to hide the secrets that the job has by now. It costs the more
// the more they are, and nothing where there is no new output.
func (x *taker) learn() {
	_, at := x.t.wal.Last()
	if at.Event == x.event {
		return
	}
	x.event = at.Event
	secrets := x.t.secrets()
	if len(secrets) == x.masked {
		return
	}
	for _, secret := range secrets {
		x.hides = x.veil.Mask(secret) || x.hides
	}
	x.masked = len(secrets)
	x.veil.Write("") // what finds them is made now
}

// hide hides the job's secrets in all texts.
func (x *taker) hide(b *otlp.Batch) {
	x.learn() // the job may have told one while this waited
	if x.hides {
		b.Rewrite(func(text string) string { return x.veil.Write(text) + x.veil.Flush() })
	}
}

// lostWords is what a job's log is to say of what was not kept.
func (x *taker) lostWords() string {
	lost, why := x.lost, x.why
	if dropped := x.t.spool.droppedItems(); dropped > 0 {
		lost, why = lost+dropped, noRoom
	}
	if lost == 0 && x.refused == 0 {
		return ""
	}
	what := fmt.Sprintf("telemetry: %d requests or items were not kept", lost)
	if why != "" {
		what += ": " + clipFault(why)
	}
	if x.refused > 0 {
		what += fmt.Sprintf("; %d requests came when there was no room", x.refused)
	}
	return what
}

// runTelemetryLoop sends what is kept until ctx ends or the server wants no more.
func (t *attempt) runTelemetryLoop(ctx context.Context) {
	var pause backoff
	for {
		batches, changed, err := t.spool.next(telemetryBytes)
		if err == nil && len(batches) == 0 {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return
			}
		}
		if err == nil {
			err = t.sendTelemetry(ctx, batches)
		}
		switch {
		case err == nil:
			pause = backoff{}
		case ctx.Err() != nil:
			return
		case !retryable(err):
			closing := t.spool.close()
			if nimbus.ErrorCode(err) != nimbus.CodeFenced {
				t.log.WarnContext(ctx, "the server takes no more of the job's telemetry", "error", err, "dropped", t.spool.droppedItems())
			}
			if closing != nil {
				t.log.WarnContext(ctx, "drop the job's telemetry", "error", closing)
			}
			return
		case !pause.wait(ctx):
			return
		}
	}
}

func (t *attempt) sendTelemetry(ctx context.Context, batches []*nimbusv1.TelemetryBatch) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := t.agent.control.AppendTelemetry(ctx, connect.NewRequest(&nimbusv1.AppendTelemetryRequest{Lease: wire.Lease(t.lease()), Batches: batches}))
	if err != nil {
		return err
	}
	if answer.Msg.GetAcknowledgedSeq() < batches[0].GetSeq() {
		return nimbus.Errorf(nimbus.CodeInvalid, "the server has telemetry up to %d, it was sent from %d on", answer.Msg.GetAcknowledgedSeq(), batches[0].GetSeq())
	}
	return t.spool.acknowledge(answer.Msg.GetAcknowledgedSeq())
}
