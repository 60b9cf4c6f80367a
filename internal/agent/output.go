package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/guestlink"
	"github.com/nimbus-ci/nimbus/internal/logs/lines"
	"github.com/nimbus-ci/nimbus/internal/logs/wal"
)

const (
	// maxOutput is the largest piece of output that an honest guest sends.
	maxOutput = 32 << 10
	// batchEvents and batchBytes bound what one sync to disk covers.
	batchEvents = 256
	batchBytes  = 1 << 20
	batchLines  = 16 << 10 // an empty line costs memory too
	// streamMask is no output: a text that the job has hidden by its receiver.
	streamMask = "mask"
)

// follower turns one attempt's events into lines on disk.
type follower struct {
	t        *attempt
	g        *guest
	splitter *lines.Splitter
	event    int64 // last event that is in
	bytes    int64 // of output so far
	exited   *nimbusv1.Exited
	docker   bool   // it wanted docker, which there is not
	first    bool   // the first output was seen
	begun    func() // hears of that
	work     sync.WaitGroup
}

// said is the last event of the guest that is in the log, and how it goes on.
func (t *attempt) said() (event int64, st lines.State) {
	_, cp := t.wal.Last()
	st = lines.State{Step: cp.Step, Pending: cp.Pending, Masks: cp.Masks}
	if cp.State != nil {
		plain, err := t.seal.Open(nil, nil, cp.State, nil)
		if err != nil || json.Unmarshal(plain, &st) != nil {
			t.end(errKeysLost)
		}
	}
	st.Runner = t.assign.Source == nimbus.SourceGitHub
	return cp.Event, st
}

// checkpoint says where the log stands.
func (t *attempt) checkpoint(event int64, s *lines.Splitter) (wal.Checkpoint, error) {
	plain, err := json.Marshal(s.State())
	if err != nil {
		return wal.Checkpoint{}, fmt.Errorf("encode where the log stands: %w", err)
	}
	return wal.Checkpoint{Event: event, State: t.seal.Seal(nil, nil, plain, nil)}, nil
}

// newSplitter goes on where the wal ends.
func (t *attempt) newSplitter() (s *lines.Splitter, event int64) {
	last, _ := t.wal.Last()
	event, st := t.said()
	// Registered secrets come first: a job can't have them left out for want of room.
	st.Masks = append(slices.Clone(t.state.Secrets), st.Masks...)
	return lines.NewSplitter(nimbus.SystemClock{}, last, st), event
}

// say adds a line of Nimbus' own to the log, after the one that was begun.
func (t *attempt) say(ctx context.Context, text string) {
	s, event := t.newSplitter()
	said := append(s.Flush(), s.System("nimbus: "+text))
	cp, err := t.checkpoint(event, s)
	if err == nil {
		err = t.wal.Append(said, cp)
	}
	if err != nil {
		t.log.ErrorContext(ctx, "append to log", "error", err)
	}
}

// follow brings the output in until the process has ended, whatever ends it.
func (t *attempt) follow(ctx context.Context, g *guest) nimbus.Outcome {
	s, event := t.newSplitter()
	begun := func() { t.reportPhase(ctx, nimbus.PhaseFirstOutput, nimbus.Start{}) }
	f := &follower{t: t, g: g, splitter: s, event: event, first: event > 0, begun: begun}
	following, cancel := context.WithCancel(ctx)
	f.work.Go(func() { f.endOnDemand(following) })
	f.work.Go(func() { f.endOnTimeout(following) })
	err := g.do(following, nimbus.MaxTimeout, f.watch)
	cancel()
	f.work.Wait()
	if ctx.Err() != nil {
		return nimbus.Outcome{} // stopped: nothing has ended, for all the next agent knows
	}
	return f.outcome(ctx, err)
}

// protocolError is a guest that does not keep to the protocol. It is the
// tenant's: its job fails, nothing else does.
type protocolError struct{ what string }

func (e *protocolError) Error() string { return "the sandbox broke the protocol: " + e.what }

// hostError is an error of this host's own, which neither the job nor its sandbox
// has a part in.
type hostError struct{ err error }

func (e *hostError) Error() string {
	if errors.Is(e.err, unix.ENOSPC) || errors.Is(e.err, unix.EDQUOT) {
		return "its host's disk is full: what the job wrote could not be kept"
	}
	return "its host could not keep what the job wrote: " + e.err.Error()
}

func (e *hostError) Unwrap() error { return e.err }

// watch reads events over one connection until the exit.
func (f *follower) watch(ctx context.Context, c *guestlink.Client) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Watch(ctx, connect.NewRequest(&nimbusv1.WatchRequest{FromSeq: f.event + 1}))
	if err != nil {
		return err
	}
	events := make(chan *nimbusv1.WatchResponse, batchEvents)
	var received sync.WaitGroup
	received.Go(func() {
		defer close(events)
		for stream.Receive() {
			select {
			case events <- stream.Msg():
			case <-ctx.Done():
				return
			}
		}
	})
	defer func() {
		cancel()
		received.Wait()
		_ = stream.Close() // its error is the stream's, which was told
	}()
	for event := range events {
		batch, err := f.collect(event, events)
		if err != nil {
			return err
		}
		if err := f.store(ctx, batch); err != nil {
			return err
		}
		if f.exited != nil {
			return nil
		}
		if _, err := c.Acknowledge(ctx, connect.NewRequest(&nimbusv1.AcknowledgeRequest{Seq: f.event})); err != nil {
			return err
		}
	}
	if err := stream.Err(); err != nil {
		if connect.CodeOf(err) == connect.CodeResourceExhausted {
			return &protocolError{"a message over its bound"}
		}
		return err
	}
	return connect.NewError(connect.CodeUnavailable, errors.New("the stream ended before the exit"))
}

// collect takes the events that are there, within the bounds of a batch, and
// checks them: they come from the tenant.
func (f *follower) collect(event *nimbusv1.WatchResponse, more <-chan *nimbusv1.WatchResponse) ([]nimbus.Line, error) {
	var out []nimbus.Line
	for events, size := 0, 0; ; {
		if event.GetSeq() != f.event+1 {
			return nil, &protocolError{fmt.Sprintf("event %d follows event %d", event.GetSeq(), f.event)}
		}
		switch e := event.GetEvent().(type) {
		case *nimbusv1.WatchResponse_Output:
			data := e.Output.GetData()
			stream := nimbus.Stream(e.Output.GetStream())
			if len(data) > maxOutput || stream != nimbus.StreamStdout && stream != nimbus.StreamStderr && stream != streamMask {
				return nil, &protocolError{fmt.Sprintf("%d bytes on stream %.20q", len(data), stream)}
			}
			f.bytes += int64(len(data))
			size += len(data)
			if stream == streamMask {
				out = append(out, f.splitter.Hide(string(data))...)
			} else {
				out = append(out, f.splitter.Write(stream, data)...)
			}
		case *nimbusv1.WatchResponse_Exited:
			// It is not counted as in: an agent that is killed before it has kept
			// the outcome must be told again.
			f.exited = e.Exited
			return append(out, f.splitter.Flush()...), nil
		default:
			return nil, &protocolError{"an event of no kind"}
		}
		f.event++
		events++
		if events == batchEvents || size > batchBytes || len(out) > batchLines {
			return out, nil
		}
		var ok bool
		select {
		case event, ok = <-more:
			if !ok {
				return out, nil
			}
		default:
			return out, nil
		}
	}
}

// store puts a batch on disk, waiting while too much is not shipped yet.
func (f *follower) store(ctx context.Context, batch []nimbus.Line) error {
	if f.bytes > f.t.agent.cfg.MaxLogBytes {
		f.t.end(errOutputLimit)
		return errOutputLimit // not a byte more; the sandbox is destroyed at once
	}
	for f.t.wal.Full() {
		changed := f.t.wal.Changed()
		if !f.t.wal.Full() {
			break
		}
		select {
		case <-changed:
		case <-f.t.ended:
			return errDead // nobody will ship the rest
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	f.notice(batch)
	cp, err := f.t.checkpoint(f.event, f.splitter)
	if err == nil {
		err = f.t.wal.Append(batch, cp)
	}
	if err != nil {
		return &hostError{err}
	}
	if !f.first && f.bytes > 0 {
		f.first = true
		f.begun()
	}
	return nil
}

// endOnDemand ends the process when the agent is told to: asked, then forced,
// then with the whole sandbox.
func (f *follower) endOnDemand(ctx context.Context) {
	select {
	case <-f.t.ended:
	case <-ctx.Done():
		return
	}
	if !errors.Is(f.t.why(), errFenced) {
		for _, signal := range []string{unix.SignalName(unix.SIGTERM), unix.SignalName(unix.SIGKILL)} {
			if err := f.g.signal(ctx, signal); err != nil {
				f.t.log.DebugContext(ctx, "signal", "error", err)
				break
			}
			select {
			case <-time.After(endGrace):
			case <-ctx.Done():
				return
			}
		}
	}
	if err := f.g.sandbox.Kill(ctx); err != nil {
		f.t.log.WarnContext(ctx, "kill sandbox", "error", err)
	}
}

func (f *follower) endOnTimeout(ctx context.Context) {
	limit := f.t.assign.Timeout
	if limit <= 0 {
		limit = nimbus.DefaultTimeout
	}
	timer := time.NewTimer(time.Until(f.t.state.Started.Add(limit)))
	defer timer.Stop()
	select {
	case <-timer.C:
		f.t.end(timeoutError(limit, f.t.assign.Source))
	case <-ctx.Done():
	}
}

// outcome says how it ended. What the agent did comes before what was seen of
// it: a cancelled process ends with some signal.
func (f *follower) outcome(ctx context.Context, err error) nimbus.Outcome {
	o := nimbus.Outcome{Result: nimbus.ResultFailure}
	if x := f.exited; x != nil {
		o.Signal = clipSignal(x.GetSignal())
		o.Usage = nimbus.Usage{CPUTime: x.GetCpuTime().AsDuration(), MaxRSSBytes: x.GetMaxRssBytes(), DiskBytes: x.GetDiskBytes()}
		if x.Code != nil {
			code := int(x.GetCode())
			o.ExitCode = &code
			if code == 0 {
				o.Result = nimbus.ResultSuccess
			}
		}
	}
	why := f.t.why()
	switch {
	case why != nil:
		ended := endedBy(why)
		o.Result, o.Reason = ended.Result, ended.Reason
		f.t.say(ctx, why.Error())
		if f.exited.GetOutOfProcesses() { // what a bomb says of itself is that it never ends
			f.t.say(ctx, outOfProcesses)
			if o.Reason.Message != "" {
				o.Reason.Message += "; " + outOfProcesses
			}
		}
		return o
	case f.exited == nil:
		o.Reason = f.sandboxReason(err)
	case o.Result != nimbus.ResultSuccess && (f.exited.GetOutOfMemory() || f.outOfMemory(ctx)):
		o.Reason = nimbus.Reason{Code: nimbus.ReasonLimit, Message: fmt.Sprintf("it ran out of its %d MiB of memory", f.t.assign.Class.MemoryMiB)}
	case f.exited.GetOutOfProcesses() && o.Result != nimbus.ResultSuccess:
		o.Reason = nimbus.Reason{Code: nimbus.ReasonLimit, Message: outOfProcesses}
	case f.exited.GetDiskFull() && o.Result != nimbus.ResultSuccess:
		o.Reason = nimbus.Reason{Code: nimbus.ReasonLimit, Message: "its sandbox's disk was full when it ended"}
	case o.Signal == "" && jobless(f.exited.GetRunner()):
		o.Result, o.Reason = nimbus.ResultFailure, runnerReason(f.exited.GetRunner()) // whatever its exit code
	case o.Signal != "":
		o.Reason = nimbus.Reason{Code: nimbus.ReasonKilled, Message: "its process was ended by " + o.Signal}
	}
	switch {
	case o.Reason.Message != "":
		f.t.say(ctx, o.Reason.Message)
	case f.exited.GetOutOfProcesses():
		f.t.say(ctx, outOfProcesses) // a shell that lost some may end well all the same
	case o.Result == nimbus.ResultSuccess && (f.exited.GetOutOfMemory() || f.outOfMemory(ctx)):
		f.t.say(ctx, fmt.Sprintf("something in it was ended for want of memory: it had %d MiB", f.t.assign.Class.MemoryMiB))
	}
	f.sayDocker(ctx, o.Result)
	return o
}

// outOfMemory tells what a guest that shares the host's kernel does not see.
func (f *follower) outOfMemory(ctx context.Context) bool {
	limited, ok := f.g.sandbox.(executor.Limited)
	if !ok {
		return false
	}
	out, err := limited.OutOfMemory(ctx)
	if err != nil {
		f.t.log.DebugContext(ctx, "look whether memory ran out", "error", err) // it has no cgroup
	}
	return out
}

// sandboxReason says why a sandbox ended without an exit of its process.
func (f *follower) sandboxReason(err error) nimbus.Reason {
	var broken *protocolError
	if errors.As(err, &broken) {
		return nimbus.Reason{Code: nimbus.ReasonGuestProtocol, Message: broken.Error()}
	}
	var own *hostError
	if errors.As(err, &own) {
		f.t.log.Error("the job was given up for this host's own fault", "error", own.err)
		return nimbus.Reason{Code: nimbus.ReasonSandboxFailed, Message: own.Error()}
	}
	r := nimbus.Reason{Code: nimbus.ReasonSandboxFailed, Message: "its sandbox ended under it"}
	select {
	case <-f.g.dead:
		f.t.log.Warn("sandbox ended", "exit", f.g.exit)
		switch {
		case f.g.exit.OutOfMemory:
			r = nimbus.Reason{Code: nimbus.ReasonLimit, Message: fmt.Sprintf("its sandbox needed more than its %d MiB of memory and was killed",
				f.t.assign.Class.MemoryMiB)}
		case f.g.exit.Cause == executor.ExitDeadline:
			r = nimbus.Reason{Code: nimbus.ReasonLeaseExpired, Message: "its host could not renew the lease in time"}
		case f.g.exit.Why != "":
			r.Message += ": " + f.g.exit.Why
		case f.g.exit.Cause == executor.ExitUnknown:
			r.Message += ": its supervisor on the host, nimbus-shim, was killed"
		}
	default:
		f.t.log.Warn("sandbox can't be reached", "error", err)
		r.Message = "its sandbox can't be reached"
	}
	return r
}

const outOfProcesses = "it started more processes than its sandbox can have at once"

// clipSignal keeps a signal's name to what one can be.
func clipSignal(name string) string {
	if unix.SignalNum(name) == 0 {
		return ""
	}
	return name
}
