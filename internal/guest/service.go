package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// service answers the agent. It implements nimbusv1connect.GuestServiceHandler.
type service struct {
	version string
	// machine is whether the guest owns a whole machine: only then it may set
	// the clock, the host's name and the network.
	machine   bool
	workspace string
	tree      tree
	events    *events

	mu        sync.Mutex
	prepared  bool   // the machine is who the agent says
	attempt   string // of the one Start
	process   *process
	started   *nimbusv1.StartRequest  // the job's, nil until then
	shells    int                     // that run now
	rehearsed *events                 // what happened in the last rehearsal, nil where there was none
	watching  context.CancelCauseFunc // ends the watcher before
	receiver  *receiver               // of the job's telemetry, nil for none
	unpacking *unpacking              // the newest, nil where none has begun

	receiverFault string // why it does not listen
}

func (s *service) Prepare(_ context.Context, r *connect.Request[nimbusv1.PrepareRequest]) (*connect.Response[nimbusv1.PrepareResponse], error) {
	if s.machine {
		if err := prepareMachine(r.Msg); err != nil {
			return nil, connect.NewError(connect.CodeInternal, err)
		}
		s.mu.Lock()
		s.prepared = true
		s.mu.Unlock()
	}
	var up unix.Sysinfo_t
	if err := unix.Sysinfo(&up); err != nil {
		return nil, connect.NewError(connect.CodeInternal, fmt.Errorf("read uptime: %w", err))
	}
	return connect.NewResponse(&nimbusv1.PrepareResponse{
		Version: s.version, Uptime: durationpb.New(time.Duration(up.Uptime) * time.Second),
	}), nil
}

// checkPrepared refuses all of a job before Prepare: a machine that was made of
// a snapshot has the random numbers of every other until then.
func (s *service) checkPrepared() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.machine && !s.prepared {
		return connect.NewError(connect.CodeFailedPrecondition, errors.New("the machine was not prepared yet"))
	}
	return nil
}

// unpacking is one of a workspace.
type unpacking struct {
	from *io.PipeReader
	over chan struct{} // closed once nothing more is written
}

// unpackNext ends the unpacking before, of which the connection broke, and tells
// whether there was one.
func (s *service) unpackNext(from *io.PipeReader) (u *unpacking, again bool) {
	u = &unpacking{from: from, over: make(chan struct{})}
	s.mu.Lock()
	before := s.unpacking
	s.unpacking = u
	s.mu.Unlock()
	if before == nil {
		return u, false
	}
	before.from.CloseWithError(errors.New("it comes once more"))
	<-before.over
	return u, true
}

func (s *service) PutWorkspace(_ context.Context, stream *connect.ClientStream[nimbusv1.PutWorkspaceRequest]) (*connect.Response[nimbusv1.PutWorkspaceResponse], error) {
	if err := s.checkPrepared(); err != nil {
		return nil, err
	}
	r, w := io.Pipe()
	u, again := s.unpackNext(r)
	received := make(chan struct{})
	go func() {
		defer close(received)
		for stream.Receive() {
			if _, err := w.Write(stream.Msg().GetChunk()); err != nil {
				return
			}
		}
		w.CloseWithError(stream.Err())
	}()
	files, bytes, err := unpack(r, s.workspace, again)
	close(u.over)
	r.CloseWithError(err)
	<-received
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	return connect.NewResponse(&nimbusv1.PutWorkspaceResponse{Files: files, Bytes: bytes}), nil
}

func (s *service) Start(_ context.Context, r *connect.Request[nimbusv1.StartRequest]) (*connect.Response[nimbusv1.StartResponse], error) {
	rehearsal := r.Msg.GetRehearsal()
	if !rehearsal {
		if err := s.checkPrepared(); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.rehearsed != nil && !s.rehearsed.over(): // its end kills whatever runs
		return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("a rehearsal is going on"))
	case s.attempt == "":
	case s.attempt == r.Msg.GetAttemptId() && !rehearsal:
		return connect.NewResponse(&nimbusv1.StartResponse{Pid: s.process.pid(), TelemetryFault: s.receiverFault}), nil // the answer was lost
	default:
		return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("a sandbox serves one job: this one has served"))
	}
	if r.Msg.GetAttemptId() == "" || len(r.Msg.GetCommand()) == 0 {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("attempt and command are needed"))
	}
	heard := s.events
	if rehearsal {
		heard = newEvents()
	}
	if !rehearsal {
		s.openReceiver(r.Msg, heard)
	}
	p, err := s.begin(r.Msg, heard)
	if err != nil {
		return nil, err
	}
	if rehearsal {
		s.rehearsed = heard
	} else {
		s.attempt, s.process, s.started = r.Msg.GetAttemptId(), p, r.Msg
		if s.receiver != nil {
			s.receiver.job.Store(p)
		}
	}
	return connect.NewResponse(&nimbusv1.StartResponse{Pid: p.pid(), TelemetryFault: s.receiverFault}), nil
}

// begin starts a process that is heard of by e.
func (s *service) begin(r *nimbusv1.StartRequest, e *events) (*process, error) {
	as, err := lookAccount(r.GetUser())
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	dir := r.GetWorkingDirectory()
	if dir == "" {
		dir = s.workspace
	}
	if as.uid != uint32(os.Geteuid()) {
		if err := chownTree(s.workspace, int(as.uid), int(as.gid)); err != nil {
			return nil, connect.NewError(connect.CodeInternal, err)
		}
	}
	p, err := start(r, dir, as, s.tree, e)
	switch {
	case errors.Is(err, unix.EINVAL): // the same request stays wrong: it is not worth another try
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	case err != nil:
		return nil, connect.NewError(connect.CodeInternal, err)
	}
	return p, nil
}

// heard are the events that a watcher asks for.
func (s *service) heard(rehearsal bool) (*events, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !rehearsal:
		return s.events, nil
	case s.rehearsed == nil:
		return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("there was no rehearsal"))
	}
	return s.rehearsed, nil
}

func (s *service) Watch(ctx context.Context, r *connect.Request[nimbusv1.WatchRequest], stream *connect.ServerStream[nimbusv1.WatchResponse]) error {
	events, err := s.heard(r.Msg.GetRehearsal())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.mu.Lock()
	if s.watching != nil {
		s.watching(connect.NewError(connect.CodeAborted, errors.New("another watcher came")))
	}
	s.watching = cancel
	s.mu.Unlock()
	for seq := max(1, r.Msg.GetFromSeq()); ; {
		event, err := events.next(ctx, seq)
		if err != nil {
			return context.Cause(ctx)
		}
		if err := stream.Send(event); err != nil {
			return err
		}
		if event.GetExited() != nil {
			return nil
		}
		seq = event.GetSeq() + 1
	}
}

func (s *service) Acknowledge(_ context.Context, r *connect.Request[nimbusv1.AcknowledgeRequest]) (*connect.Response[nimbusv1.AcknowledgeResponse], error) {
	s.events.acknowledge(r.Msg.GetSeq())
	return connect.NewResponse(&nimbusv1.AcknowledgeResponse{}), nil
}

func (s *service) Signal(_ context.Context, r *connect.Request[nimbusv1.SignalRequest]) (*connect.Response[nimbusv1.SignalResponse], error) {
	sig := unix.SignalNum(r.Msg.GetSignal())
	switch sig {
	case unix.SIGTERM, unix.SIGINT, unix.SIGKILL:
		s.tree.kill(sig)
		return connect.NewResponse(&nimbusv1.SignalResponse{}), nil
	}
	return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("no signal of ours: %q", r.Msg.GetSignal()))
}
