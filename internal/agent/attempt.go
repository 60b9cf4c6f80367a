package agent

import (
	"cmp"
	"context"
	"crypto/cipher"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/logs/wal"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

const (
	// createTimeout bounds the making of a sandbox: an emulated machine boots
	// slowly on a busy host, and is tried twice.
	createTimeout = 5 * time.Minute
	// imageTimeout is what may be added to fetch and convert a container image
	// that no job on this host has used yet.
	imageTimeout = 20 * time.Minute
	// endGrace is how long a process that is told to end may take.
	endGrace = 10 * time.Second
	// destroyTimeout bounds one try to destroy; the sweep goes on trying.
	destroyTimeout = 30 * time.Second
	// walLimit is how much unacknowledged log a job may have on the host's
	// disk; at the limit its output is not read, and its writes block.
	walLimit = 256 << 20
)

// Why an attempt is ended by the agent.
var (
	errCancelled   = errors.New("cancelled")
	errFenced      = errors.New("fenced: the lease is somebody else's")
	errTimeout     = errors.New("ran longer than it may")
	errOutputLimit = errors.New("wrote more log than it may")
)

// attempt is one execution of a job on this host.
type attempt struct {
	agent  *Agent
	log    *slog.Logger
	assign nimbus.Assignment
	dir    string
	wal    *wal.Log
	spool  *spool // of its telemetry
	seal   cipher.AEAD
	state  state // written by the attempt's own goroutine alone
	// adopted says that an earlier agent began it.
	adopted bool
	tells   tells
	usage   usage

	mu      sync.Mutex
	sandbox executor.Sandbox
	renewed time.Time // when the last confirmed renewal was sent
	ending  error     // why the agent ends it; the first reason stays
	ended   chan struct{}
	told    bool    // the outcome is reported: the lease is over
	shells  *shells // nil while there is no guest to ask
}

// newAttempt makes the folder of an attempt that was just accepted.
func (a *Agent) newAttempt(as nimbus.Assignment, reserved nimbus.Reservation, sent time.Time) (*attempt, error) {
	if err := nimbus.CheckID(nimbus.PrefixAttempt, as.AttemptID); err != nil {
		return nil, err
	}
	dir := filepath.Join(a.attemptsDir(), as.AttemptID)
	if err := os.MkdirAll(filepath.Join(dir, "sandbox"), 0o700); err != nil {
		return nil, fmt.Errorf("make the attempt's folder: %w", err)
	}
	t, err := a.openAttempt(dir, as, state{Reserved: reserved}, sent)
	if err != nil {
		return nil, err
	}
	if err := t.state.setAssignment(as); err != nil {
		return nil, fmt.Errorf("encode assignment: %w", err)
	}
	if as.JobToken != "" {
		t.state.Secrets = []string{as.JobToken}
	}
	return t, t.save()
}

func (a *Agent) openAttempt(dir string, as nimbus.Assignment, s state, renewed time.Time) (*attempt, error) {
	seal, err := a.sealer.of(as.AttemptID)
	if err != nil {
		return nil, err
	}
	sp, err := openSpool(filepath.Join(dir, "otlp"), spoolLimit)
	if err != nil {
		return nil, err
	}
	w, err := wal.Open(filepath.Join(dir, "wal"), walLimit)
	if err != nil {
		return nil, err
	}
	t := &attempt{
		agent: a, assign: as, dir: dir, wal: w, spool: sp, seal: seal, state: s, renewed: renewed, ended: make(chan struct{}),
		log: a.log.With("job", as.JobID, "attempt", as.AttemptID),
	}
	if err := t.state.unseal(seal); err != nil {
		// What is to be hidden in the log, and how the process was started, is not known.
		t.end(err)
	}
	t.assign.JobToken, t.assign.CacheToken = cmp.Or(t.state.JobToken, as.JobToken), cmp.Or(t.state.CacheToken, as.CacheToken)
	if err := t.loadUsage(); err != nil {
		t.log.Warn("what the attempt used so far is lost", "error", err)
	}
	return t, nil
}

// begun tells whether the process was started, or may have been.
func (t *attempt) begun() bool { return t.state.Begun || t.state.Start != nil }

func (t *attempt) lease() nimbus.Lease { return t.assign.Lease }

// leased tells whether the lease still has to be renewed.
func (t *attempt) leased() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.told && !errors.Is(t.ending, errFenced)
}

// end makes the attempt end, for the first reason that is given. Fenced comes
// before all others: then nothing may be reported.
func (t *attempt) end(why error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ending == nil {
		close(t.ended)
	}
	if t.ending == nil || errors.Is(why, errFenced) {
		t.ending = why
	}
}

// untilEnded returns a context that ends when the attempt is told to end and
// has had its grace.
func (t *attempt) untilEnded(ctx context.Context, grace time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() { // ends with ctx
		select {
		case <-t.ended:
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(grace):
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

func (t *attempt) why() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ending
}

// run takes the attempt from wherever it is to its end. When ctx ends before
// that, the sandbox is left to its shim for the next agent to adopt.
func (t *attempt) run(ctx context.Context) {
	release := sync.OnceFunc(func() { t.agent.capacity.release(t.state.Reserved) })
	defer release()
	defer t.awaitTold()
	defer func() {
		if err := t.wal.Close(); err != nil {
			t.log.ErrorContext(ctx, "close wal", "error", err)
		}
	}()
	shipCtx, stopShipping := context.WithCancel(ctx)
	defer stopShipping()
	shipped := make(chan struct{})
	go func() {
		defer close(shipped)
		if err := t.runShipLoop(shipCtx); err != nil {
			t.log.WarnContext(ctx, "ship log", "error", err)
		}
	}()
	var sending sync.WaitGroup
	sending.Go(func() { t.runTelemetryLoop(shipCtx) })
	defer sending.Wait()
	defer stopShipping()

	outcome, done := t.state.outcome()
	if !done {
		outcome = t.execute(ctx)
		if ctx.Err() != nil {
			<-shipped
			return // stopped, not ended
		}
		if t.wantsKeep(outcome) {
			t.say(ctx, "its sandbox stays for "+t.assign.Spec.Hold.String()+": nimbus shell "+t.assign.JobID)
		}
		outcome.LogLines, _ = t.wal.Last()
		if err := errors.Join(t.state.setOutcome(outcome), t.save()); err != nil {
			t.log.ErrorContext(ctx, "keep outcome", "error", err)
		}
	}
	t.log.InfoContext(ctx, "ended", "result", outcome.Result, "reason", outcome.Reason.Message)
	t.keep(ctx, outcome)
	if ctx.Err() != nil {
		stopShipping()
		<-shipped
		return // the next agent goes on
	}
	t.report(ctx, outcome)
	if !t.destroy(ctx) {
		stopShipping()
		<-shipped
		return // stopped meanwhile; the next agent goes on
	}
	release()
	if t.awaitShipped(ctx, outcome.LogLines, shipped) && t.spool.awaitEmpty(ctx) {
		t.forget(ctx)
	}
	stopShipping()
	<-shipped
}

// execute brings the job to its end and says how that was. It is only of
// value when ctx has not ended.
func (t *attempt) execute(ctx context.Context) nimbus.Outcome {
	began := time.Now()
	sandbox, err := t.ensureSandbox(ctx)
	if err != nil {
		return t.notStarted(ctx, err)
	}
	t.mu.Lock()
	t.sandbox = sandbox
	t.mu.Unlock()
	t.measure(ctx) // from here on
	if t.begun() {
		t.renew(ctx, time.Time{}) // one that has ended meanwhile is found out by who follows it
	} else if err := t.hold(ctx); err != nil { // from the creation's patience to the lease's
		return t.notStarted(ctx, err)
	}
	g := newGuest(t, sandbox)
	defer g.close()
	if err := g.begin(ctx); err != nil {
		return t.notStarted(ctx, err)
	}
	endShells := t.serveShells(ctx, g)
	takeRest := g.takeTelemetry(ctx)
	outcome := t.follow(ctx, g)
	lost := takeRest()
	if ctx.Err() != nil {
		endShells(errAgentStopped)
	} else {
		endShells(errJobEnded)
	}
	outcome.Usage.WallDuration = time.Since(began)
	if ctx.Err() == nil {
		t.measure(ctx)
		outcome.Series = t.usage.end()
		outcome.Usage.Sandbox = outcome.Series.Totals()
		g.sayCache(ctx)
		if lost != "" {
			t.say(ctx, lost)
		}
		t.sayRefused(ctx, sandbox)
	}
	return outcome
}

// ensureSandbox makes the sandbox, or finds the one that an earlier process
// made. What an earlier agent made for a process that was not started yet is
// taken away, and made anew: how far it came nobody knows.
func (t *attempt) ensureSandbox(ctx context.Context) (executor.Sandbox, error) {
	e := t.agent.executors[t.assign.Class.Executor]
	if e == nil {
		return nil, nimbus.Errorf(nimbus.CodeUnsupported, "this host has no executor %q", t.assign.Class.Executor)
	}
	dir := filepath.Join(t.dir, "sandbox")
	if t.begun() {
		return e.Adopt(ctx, t.assign.AttemptID, dir)
	}
	// Whatever the control plane takes this host for.
	if why := t.agent.has.WhyNotReach(t.assign.Class); why != "" {
		return nil, nimbus.Errorf(nimbus.CodeForbidden, "this host %s", why)
	}
	making, cancel := context.WithTimeout(ctx, imageTimeout+createTimeout)
	defer cancel()
	making, giveUp := t.untilEnded(making, 0)
	defer giveUp()
	began := time.Now()
	tell := func(what string) { t.say(making, what) }
	cleared := !t.adopted
	s, err := untilThere(making, tell, func() (executor.Sandbox, error) {
		if !cleared {
			if err := t.clear(making, e); err != nil {
				return nil, err
			}
			cleared = true
		}
		return e.Create(making, executor.Spec{
			ID: t.assign.AttemptID, Dir: dir, Class: t.assign.Class, Reserved: t.state.Reserved, Deadline: createTimeout, Tell: tell,
		})
	})
	if err != nil {
		return nil, err
	}
	t.reportPhase(ctx, nimbus.PhaseSandboxReady, nimbus.Start{Origin: originOf(s), Took: time.Since(began)})
	return s, nil
}

// clear removes what an agent left of the sandbox that ended while it made it.
func (t *attempt) clear(ctx context.Context, e executor.Executor) error {
	if err := t.destroyOnce(ctx); err != nil {
		return fmt.Errorf("remove what an earlier agent left of the sandbox: %w", err)
	}
	// What was made before the folder told of it has the attempt's name.
	t.agent.sweepOf(ctx, e, func() []string {
		return slices.DeleteFunc(t.agent.attemptIDs(), func(id string) bool { return id == t.assign.AttemptID })
	})
	if err := os.Mkdir(filepath.Join(t.dir, "sandbox"), 0o700); err != nil {
		return fmt.Errorf("make the sandbox' folder: %w", err)
	}
	return nil
}

// awayPatience is how long what a sandbox is made with may be away: a daemon that
// is started anew, a registry. A job has few attempts, and none of them is worth
// less than that.
const (
	awayPatience = 45 * time.Second
	awayPause    = time.Second      // at first; it grows
	awayWords    = 15 * time.Second // between what the job hears of it
)

// untilThere makes a sandbox, again for a while where something that it takes can't
// be reached.
func untilThere(ctx context.Context, tell func(string), create func() (executor.Sandbox, error)) (executor.Sandbox, error) {
	began, pause := time.Now(), backoff{next: awayPause / 2}
	var said string
	var saidAt time.Time
	for {
		s, err := create()
		if nimbus.ErrorCode(err) != nimbus.CodeUnavailable || time.Since(began) > awayPatience {
			return s, err
		}
		switch {
		case err.Error() != said:
			said, saidAt = err.Error(), time.Now()
			tell(said + "; trying again")
		case time.Since(saidAt) >= awayWords:
			saidAt = time.Now()
			tell(fmt.Sprintf("still not there after %v; trying again", time.Since(began).Round(time.Second)))
		}
		if !pause.wait(ctx) {
			return nil, err
		}
	}
}

// originOf is where a sandbox came from that was just created.
func originOf(s executor.Sandbox) nimbus.Origin {
	if d, ok := s.(executor.Dated); ok {
		return d.Origin()
	}
	return nimbus.OriginCold
}

// notStarted is the outcome of an attempt whose process never ran.
func (t *attempt) notStarted(ctx context.Context, err error) nimbus.Outcome {
	if why := t.why(); why != nil {
		o := endedBy(why)
		o.BeforeStart = !t.begun()
		return o
	}
	if ctx.Err() != nil {
		return nimbus.Outcome{} // stopped: nothing has ended
	}
	t.log.WarnContext(ctx, "not started", "error", err)
	reason := nimbus.ReasonSandboxFailed
	var failed *startError
	var image *executor.ImageError
	switch {
	case errors.As(err, &failed):
		reason = failed.reason
	case errors.As(err, &image), nimbus.ErrorCode(err) == nimbus.CodeNotFound && !t.begun():
		reason = nimbus.ReasonImageNotFound
	}
	message := err.Error()
	if hint := nimbus.ErrorHint(err); hint != "" {
		message += "; " + hint
	}
	t.say(ctx, message)
	return nimbus.Outcome{
		Result: nimbus.ResultFailure, Reason: nimbus.Reason{Code: reason, Message: message},
		// A process may have run in a sandbox that could not be found again.
		BeforeStart: !t.begun(),
	}
}

// startError is a failure before the process ran that has a reason of its own.
type startError struct {
	reason nimbus.ReasonCode
	err    error
}

func (e *startError) Error() string { return e.err.Error() }
func (e *startError) Unwrap() error { return e.err }

// timeoutError names the limit that a job ran into, and how its owner moves that;
// of a job of GitHub's only GitHub knows.
func timeoutError(limit time.Duration, source nimbus.Source) error {
	if source == nimbus.SourceGitHub {
		return fmt.Errorf("%w: its limit is %v", errTimeout, limit)
	}
	return fmt.Errorf("%w: its limit is %v, --timeout sets another", errTimeout, limit)
}

// endedBy is the outcome of an attempt that the agent ended.
func endedBy(why error) nimbus.Outcome {
	o := nimbus.Outcome{Result: nimbus.ResultCancelled, Reason: nimbus.Reason{Message: why.Error()}}
	switch {
	case errors.Is(why, errTimeout):
		o.Result, o.Reason.Code = nimbus.ResultTimedOut, nimbus.ReasonTimeout
	case errors.Is(why, errOutputLimit):
		o.Result, o.Reason.Code = nimbus.ResultFailure, nimbus.ReasonOutputLimit
	case errors.Is(why, errKeysLost):
		o.Result, o.Reason.Code = nimbus.ResultFailure, nimbus.ReasonSandboxFailed
	default:
		o.Reason = nimbus.Reason{}
	}
	return o
}

// report tells the control plane the outcome, however long that takes: until
// then the job is held to be running here.
func (t *attempt) report(ctx context.Context, o nimbus.Outcome) {
	t.awaitTold() // of an attempt that is over, nothing more is taken
	if !errors.Is(t.why(), errFenced) {
		_, err := call(ctx, t.agent.control.FinishAttempt, &nimbusv1.FinishAttemptRequest{Lease: wire.Lease(t.lease()), Outcome: wire.Outcome(o)})
		if err != nil && ctx.Err() == nil {
			t.log.WarnContext(ctx, "report outcome", "error", err)
		}
	}
	if ctx.Err() == nil {
		t.mu.Lock()
		t.told = true
		t.mu.Unlock()
	}
}

// tells are the reports of phases that are under way, one after another.
type tells struct {
	mu   sync.Mutex
	last chan struct{} // closed once the last of them was told
}

// next returns what to wait for, and what to close once that is told which the
// caller has to tell.
func (t *tells) next() (before, done chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before, t.last = t.last, make(chan struct{})
	return before, t.last
}

// reportPhase tells how far the attempt is, after what was told before and
// beside its work: no job waits for that. The returned channel is closed once
// it is told, or ctx has ended.
func (t *attempt) reportPhase(ctx context.Context, p nimbus.Phase, s nimbus.Start) <-chan struct{} {
	request := &nimbusv1.ReportPhaseRequest{Lease: wire.Lease(t.lease()), Phase: string(p), Origin: string(s.Origin)}
	if s.Origin != "" {
		request.Took = durationpb.New(s.Took)
	}
	before, done := t.tells.next()
	go func() { // ends with ctx, or once the control plane has answered
		defer close(done)
		if before != nil {
			<-before
		}
		_, err := call(ctx, t.agent.control.ReportPhase, request)
		if err != nil && ctx.Err() == nil && !errors.Is(t.why(), errFenced) {
			t.log.WarnContext(ctx, "report phase", "phase", p, "error", err)
		}
	}()
	return done
}

// awaitTold waits until all is told that was to be.
func (t *attempt) awaitTold() {
	t.tells.mu.Lock()
	last := t.tells.last
	t.tells.mu.Unlock()
	if last != nil {
		<-last
	}
}

// destroy removes the sandbox, and tells so once it is gone. It returns false
// when ctx ended first.
func (t *attempt) destroy(ctx context.Context) bool {
	var pause backoff
	for {
		err := t.destroyOnce(ctx)
		if err == nil {
			break
		}
		t.log.ErrorContext(ctx, "destroy sandbox", "error", err)
		if !pause.wait(ctx) {
			return false
		}
	}
	// Whatever was heard of the lease: a heartbeat that was sent before the
	// outcome was told may hear after it that there is none, and of an attempt
	// that is somebody else's this is not taken.
	<-t.reportPhase(ctx, nimbus.PhaseDestroyed, nimbus.Start{})
	return ctx.Err() == nil
}

// destroyOnce destroys the sandbox and removes its folder. What it removed
// before an error it does not miss the next time.
func (t *attempt) destroyOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, destroyTimeout)
	defer cancel()
	dir := filepath.Join(t.dir, "sandbox")
	if e := t.agent.executors[t.assign.Class.Executor]; e != nil {
		s, err := e.Adopt(ctx, t.assign.AttemptID, dir)
		if err == nil {
			err = s.Destroy(ctx)
		}
		if err != nil && nimbus.ErrorCode(err) != nimbus.CodeNotFound {
			return err
		}
	}
	// The last of its processes may still be writing there.
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove sandbox folder: %w", err)
	}
	return nil
}

// forget removes the last trace of an attempt.
func (t *attempt) forget(ctx context.Context) {
	if err := os.RemoveAll(t.dir); err != nil {
		t.log.ErrorContext(ctx, "remove the attempt's folder", "error", err)
	}
}
