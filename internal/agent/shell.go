package agent

import (
	"context"
	"errors"
	"sync"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

const (
	// inputWait is how long one call waits for what somebody types.
	inputWait = callTimeout - 5*time.Second
	// takeWithin is how long the poll waits for shells to be taken.
	takeWithin = time.Second
	// lastWords bounds the telling of a shell's end.
	lastWords = 5 * time.Second
	// shellPieces and shellBytes bound what of a shell's output waits here: more
	// waits in the sandbox.
	shellPieces = 16
	shellBytes  = 192 << 10
	// shellFrames bounds how many of its pieces go at once: two streams may take
	// turns by the byte.
	shellFrames = 512
	// quietAfter is how long output that may begin a secret is kept from the
	// recording when nothing follows.
	quietAfter = time.Second
	// killedGrace is how long it may take from the kill of a job's processes to
	// the news of its end.
	killedGrace = 2 * time.Second
)

// shellEndError is why the agent ends a shell.
type shellEndError struct {
	reason  nimbus.ShellReason
	message string
}

func (e shellEndError) Error() string { return e.message }

var (
	errJobEnded     = shellEndError{nimbus.ShellJobEnded, "the job has ended"}
	errReleased     = shellEndError{nimbus.ShellJobEnded, "the sandbox is not held any more"}
	errAgentStopped = shellEndError{nimbus.ShellAgentStopped, "the host's agent stopped; the job goes on"}
	// errToldEnd is for a shell whose end the control plane knows.
	errToldEnd = errors.New("the control plane ended it")
)

// shells are those of one attempt, for as long as its guest can be asked.
type shells struct {
	guest  *guest
	ctx    context.Context //nolint:containedctx // that of all of them, which begin at different times
	cancel context.CancelCauseFunc

	mu      sync.Mutex
	over    bool
	known   map[string]bool
	running sync.WaitGroup
}

// serveShells lets shells be opened in the guest until the returned function is
// called with why that ends. It returns once all of them have ended.
func (t *attempt) serveShells(ctx context.Context, g *guest) (end func(why shellEndError)) {
	s := &shells{guest: g, known: map[string]bool{}}
	// Not with ctx: they have to say that the agent stops.
	s.ctx, s.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	t.mu.Lock()
	t.shells = s
	t.mu.Unlock()
	return func(why shellEndError) {
		t.mu.Lock()
		t.shells = nil
		t.mu.Unlock()
		s.mu.Lock()
		s.over = true
		s.mu.Unlock()
		s.cancel(why)
		s.running.Wait()
	}
}

// callShells begins shells that somebody waits for, and tells whether any was
// news. One of an attempt that has no guest now is told of again. It waits a
// moment until they are taken: the next poll would be told of them once more.
func (a *Agent) callShells(calls []*nimbusv1.ShellCall) (news bool) {
	taken := time.NewTimer(takeWithin)
	defer taken.Stop()
	for _, c := range calls {
		t := a.find(c.GetAttemptId())
		if t == nil {
			continue
		}
		t.mu.Lock()
		s := t.shells
		t.mu.Unlock()
		if s == nil {
			continue
		}
		if sh := s.begin(c.GetShellId()); sh != nil {
			news = true
			select {
			case <-sh.taken:
			case <-taken.C:
				return true // the others are told of again
			}
		}
	}
	return news
}

// begin begins a shell, once; nil for one that is known.
func (s *shells) begin(id string) *shell {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || s.known[id] || len(s.known) > maxShellsOfAttempt || nimbus.CheckID(nimbus.PrefixShell, id) != nil {
		return nil
	}
	s.known[id] = true
	sh := &shell{shells: s, t: s.guest.t, id: id, taken: make(chan struct{})}
	s.running.Go(sh.run)
	return sh
}

// maxShellsOfAttempt bounds how many are remembered.
const maxShellsOfAttempt = 10_000

// shell is one that somebody opened.
type shell struct {
	*shells
	t         *attempt
	id        string
	taken     chan struct{} // closed once the control plane knows that it is, or that it will not be
	seq       int64         // of the last batch of output
	mu        sync.Mutex
	recording *recording
}

func (s *shell) run() {
	ctx, cancel := context.WithCancelCause(s.ctx)
	defer cancel(nil)
	log := s.t.log.With("shell", s.id)
	attaching, stop := context.WithTimeout(ctx, callTimeout)
	answer, err := call(attaching, s.t.agent.control.AttachShell, &nimbusv1.AttachShellRequest{Lease: wire.Lease(s.t.lease()), ShellId: s.id})
	stop()
	close(s.taken)
	if err != nil {
		log.InfoContext(ctx, "shell not taken", "error", err)
		return
	}
	log.InfoContext(ctx, "shell opened")
	s.recording = newRecording(answer.GetSpec(), s.t.secrets(), time.Now())
	end := s.serve(ctx, cancel, answer.GetSpec())
	if errors.Is(context.Cause(ctx), errToldEnd) {
		log.InfoContext(ctx, "shell ended by the control plane")
		end = nimbus.ShellEnd{Reason: nimbus.ShellClosed}
	}
	log.InfoContext(ctx, "shell ended", "reason", end.Reason, "message", end.Message)
	telling, done := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
	defer done()
	if err := s.send(telling, nil, &end); err != nil {
		log.DebugContext(ctx, "tell a shell's end", "error", err) // whoever waits for it hears by other ways
	}
}

// serve passes everything on until the shell ends, and says how that was.
func (s *shell) serve(ctx context.Context, cancel context.CancelCauseFunc, spec *nimbusv1.ShellSpec) nimbus.ShellEnd {
	defer cancel(nil)
	c, err := s.guest.connect(ctx)
	if err != nil {
		return s.broken(ctx, err)
	}
	stream := c.Shell(ctx)
	// HTTP/2 sees the end of a context only once the request's body has ended.
	defer context.AfterFunc(ctx, func() { _ = stream.CloseRequest() })()
	defer func() {
		cancel(nil)
		_ = errors.Join(stream.CloseRequest(), stream.CloseResponse()) // their errors are the stream's
	}()
	if err := stream.Send(&nimbusv1.ShellRequest{Message: &nimbusv1.ShellRequest_Start{Start: spec}}); err != nil {
		_, err = stream.Receive() // which says why
		return s.broken(ctx, err)
	}
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel(nil)
	work.Go(func() {
		s.takeInput(ctx, cancel, func(f *nimbusv1.ShellFrame) error {
			return stream.Send(&nimbusv1.ShellRequest{Message: &nimbusv1.ShellRequest_Frame{Frame: f}})
		})
	})
	pieces, ended := make(chan *nimbusv1.ShellOutput, shellPieces), make(chan nimbus.ShellEnd, 1)
	work.Go(func() {
		defer close(pieces)
		ended <- s.takeOutput(ctx, stream.Receive, pieces)
	})
	if err := s.giveOutput(ctx, pieces); err != nil {
		return s.broken(ctx, err)
	}
	return <-ended
}

// broken is the end of a shell that an error ended.
func (s *shell) broken(ctx context.Context, err error) nimbus.ShellEnd {
	var why shellEndError
	var answer *connect.Error
	switch {
	case errors.As(context.Cause(ctx), &why):
		return nimbus.ShellEnd{Reason: why.reason, Message: why.message}
	case errors.As(err, &answer) && answer.Code() == connect.CodeUnimplemented:
		return nimbus.ShellEnd{Reason: nimbus.ShellRefused, Message: "the sandbox was made by a Nimbus that is older than shells"}
	case errors.As(err, &answer) && !broken(err):
		return nimbus.ShellEnd{Reason: nimbus.ShellRefused, Message: "the sandbox refused it: " + answer.Message()}
	}
	return nimbus.ShellEnd{Reason: nimbus.ShellRefused, Message: "the connection to the sandbox broke; the job goes on if it can"}
}

// takeInput brings what is typed to the shell. A shell that does not read it
// makes who types wait, and nobody else.
func (s *shell) takeInput(ctx context.Context, cancel context.CancelCauseFunc, send func(*nimbusv1.ShellFrame) error) {
	for after := int64(0); ; {
		answer, err := call(ctx, s.t.agent.control.ReceiveShellInput, &nimbusv1.ReceiveShellInputRequest{
			Lease: wire.Lease(s.t.lease()), ShellId: s.id, After: after, Wait: durationpb.New(inputWait),
		})
		if err != nil || answer.GetEnd() != nil {
			cancel(errToldEnd) // or it is not ours any more
			return
		}
		after = answer.GetSeq()
		for _, f := range answer.GetFrames() {
			if size := f.GetSize(); size != nil {
				s.mu.Lock()
				s.recording.resize(size, time.Now())
				s.mu.Unlock()
			}
			if send(f) != nil {
				return // the other direction says why
			}
		}
	}
}

// takeOutput reads what the guest sends, and checks it: it comes from the tenant.
func (s *shell) takeOutput(ctx context.Context, receive func() (*nimbusv1.ShellResponse, error), pieces chan<- *nimbusv1.ShellOutput) nimbus.ShellEnd {
	for {
		message, err := receive()
		if err != nil {
			return s.broken(ctx, err)
		}
		if x := message.GetExited(); x != nil {
			end := nimbus.ShellEnd{Signal: clipSignal(x.GetSignal()), Reason: nimbus.ShellExited}
			if x.Code != nil {
				code := int(x.GetCode())
				end.Code = &code
			}
			s.awaitWhy(ctx, end)
			if _, told := errors.AsType[shellEndError](context.Cause(ctx)); told {
				return s.broken(ctx, ctx.Err())
			}
			return end.Clipped()
		}
		piece := message.GetOutput()
		stream := nimbus.Stream(piece.GetStream())
		if len(piece.GetData()) == 0 || len(piece.GetData()) > maxOutput || stream != nimbus.StreamStdout && stream != nimbus.StreamStderr {
			return nimbus.ShellEnd{Reason: nimbus.ShellRefused, Message: "the sandbox broke the protocol"}
		}
		select {
		case pieces <- piece:
		case <-ctx.Done():
			return s.broken(ctx, ctx.Err())
		}
	}
}

// awaitWhy gives what killed a shell a while to tell: with the job's first
// process end all others.
func (s *shell) awaitWhy(ctx context.Context, end nimbus.ShellEnd) {
	if end.Signal != unix.SignalName(unix.SIGKILL) {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(killedGrace):
	}
}

// giveOutput sends what comes, in batches of what is there, until all is sent.
func (s *shell) giveOutput(ctx context.Context, pieces <-chan *nimbusv1.ShellOutput) error {
	quiet := time.NewTimer(quietAfter)
	defer quiet.Stop()
	for {
		var piece *nimbusv1.ShellOutput
		var more bool
		select {
		case piece, more = <-pieces:
			if !more {
				return nil
			}
		case <-quiet.C:
			if err := s.send(ctx, nil, nil); err != nil {
				return err
			}
			continue
		}
		var frames []*nimbusv1.ShellFrame
		for size := 0; piece != nil; {
			frames = addPiece(frames, piece)
			if size += len(piece.GetData()); size > shellBytes || len(frames) == shellFrames {
				break
			}
			select {
			case piece = <-pieces: // nil at its end, which the next round sees
			default:
				piece = nil
			}
		}
		if err := s.send(ctx, frames, nil); err != nil {
			return err
		}
		quiet.Reset(quietAfter)
	}
}

// addPiece adds a piece to a batch, in which small ones of one stream are one.
func addPiece(frames []*nimbusv1.ShellFrame, piece *nimbusv1.ShellOutput) []*nimbusv1.ShellFrame {
	if len(frames) > 0 {
		last := frames[len(frames)-1].GetOutput()
		if last.GetStream() == piece.GetStream() && len(last.GetData())+len(piece.GetData()) <= maxOutput {
			last.Data = append(last.GetData(), piece.GetData()...)
			return frames
		}
	}
	return append(frames, &nimbusv1.ShellFrame{Frame: &nimbusv1.ShellFrame_Output{Output: piece}})
}

// send sends a batch of output, what was recorded by then, and the end.
func (s *shell) send(ctx context.Context, frames []*nimbusv1.ShellFrame, end *nimbus.ShellEnd) error {
	request := &nimbusv1.SendShellOutputRequest{Lease: wire.Lease(s.t.lease()), ShellId: s.id, Frames: frames, End: wire.ShellEnd(end)}
	if len(frames) > 0 {
		s.seq++
		request.Seq = s.seq
	}
	s.mu.Lock()
	s.recording.mask(s.t.secrets())
	for _, f := range frames {
		s.recording.output(f.GetOutput().GetData(), time.Now())
	}
	if len(frames) == 0 {
		s.recording.end(time.Now())
	}
	recorded := s.recording.take()
	s.mu.Unlock()
	for _, line := range recorded {
		request.Recorded = append(request.Recorded, wire.Line(line))
	}
	if len(frames) == 0 && len(recorded) == 0 && end == nil {
		return nil
	}
	_, err := call(ctx, s.t.agent.control.SendShellOutput, request)
	return err
}

// secrets are what of the job must not be seen, by now.
func (t *attempt) secrets() []string {
	_, st := t.said()
	return append(append([]string(nil), t.state.Secrets...), st.Masks...)
}
