package simhost

import (
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// sandbox is one attempt on a machine: the process with its shim, and what the
// agent keeps of it on disk.
type sandbox struct {
	machine *Machine
	lease   *nimbusv1.Lease
	work    time.Duration
	github  bool // its process is a runner
	record  *Execution

	mu      sync.Mutex
	runner  Runner    // nil before it is registered
	renewed time.Time // when the last confirmed renewal was sent
	started bool
	why     End           // for which it was killed
	fed     chan struct{} // one message: the deadline moved
	killed  chan struct{}
	ended   chan struct{} // closed once no process of it lives
}

func newSandbox(m *Machine, a *nimbusv1.Assignment, sent time.Time) *sandbox {
	work := workOf(a.GetSpec().GetCommand())
	b := &sandbox{
		machine: m, lease: a.GetLease(), work: work, renewed: sent,
		github: a.GetSource() == string(nimbus.SourceGitHub),
		record: &Execution{JobID: a.GetJobId(), AttemptID: a.GetLease().GetAttemptId(), HostID: m.ID, Fence: a.GetLease().GetFence(), Work: work},
		fed:    make(chan struct{}, 1), killed: make(chan struct{}), ended: make(chan struct{}),
	}
	m.records.add(b.record)
	return b
}

// Work is the command of a job that a simulated machine works on for d.
func Work(d time.Duration) []string { return []string{"work", d.String()} }

// workOf reads it; another command takes no time.
func workOf(command []string) time.Duration {
	if len(command) != 2 {
		return 0
	}
	d, _ := time.ParseDuration(command[1])
	return d
}

// feed moves the shim's deadline.
func (b *sandbox) feed(sent time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if sent.After(b.renewed) {
		b.renewed = sent
	}
	select {
	case b.fed <- struct{}{}:
	default:
	}
}

// left is how long the lease's deadline is away.
func (b *sandbox) left() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return nimbus.ShimDeadline - time.Since(b.renewed)
}

// kill ends the process, for the first reason that is given; one that was never
// started won't be. Fenced comes before all others.
func (b *sandbox) kill(why End) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.why == EndNone {
		close(b.killed)
		b.why = why
		if !b.started {
			b.finish(why)
		}
	}
	if why == EndFenced {
		b.why = why
	}
}

// reason is why it was killed, if it was.
func (b *sandbox) reason() End {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.why
}

// finish notes the end. The caller holds the lock.
func (b *sandbox) finish(why End) {
	if b.runner != nil {
		b.runner.Vanish()
	}
	b.machine.records.edit(func() { b.record.End = why })
	close(b.ended)
}

// lacksRunner tells whether a runner has to be registered before it starts.
func (b *sandbox) lacksRunner() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.github && b.runner == nil && b.why == EndNone
}

// start starts the process, unless the lease ran out or the sandbox was killed
// before.
func (b *sandbox) start() bool {
	left := b.left()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.started || b.why != EndNone || left <= 0 || b.github && b.runner == nil {
		return b.started
	}
	b.started = true
	b.machine.running.Go(b.run)
	return true
}

// run is the process under its shim. The shim looks at its deadline before the
// process goes on after a pause.
func (b *sandbox) run() {
	end, left, worked := EndNone, b.work, time.Duration(0)
	for end == EndNone {
		if !b.machine.gate.pass(b.killed) {
			end = b.reason()
			break
		}
		if b.left() <= 0 {
			end = EndExpired
			break
		}
		if b.github {
			end, worked = b.listen(worked)
			continue
		}
		began := time.Now()
		b.machine.records.lives(b.record)
		end = b.live(left)
		b.machine.records.rests(b.record)
		left -= time.Since(began)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.finish(end)
}

// live lets the process run until it ends, or until the machine is paused.
func (b *sandbox) live(work time.Duration) End {
	done := time.NewTimer(work)
	defer done.Stop()
	pausing := b.machine.gate.pausing()
	for {
		deadline := time.NewTimer(b.left())
		select {
		case <-done.C:
			deadline.Stop()
			return EndDone
		case <-b.killed:
			deadline.Stop()
			return b.reason()
		case <-pausing:
			deadline.Stop()
			return EndNone
		case <-b.fed:
			deadline.Stop()
		case <-deadline.C:
			if b.left() <= 0 {
				return EndExpired
			}
		}
	}
}

// outcome is what the agent reports of an execution that has ended.
func (b *sandbox) outcome() *nimbusv1.Outcome {
	b.mu.Lock()
	defer b.mu.Unlock()
	o := &nimbusv1.Outcome{Result: nimbusv1.JobResult_JOB_RESULT_FAILURE, BeforeStart: !b.started}
	switch b.record.End {
	case EndDone, EndIdle, EndDropped: // a listener ends well, whatever became of its job
		o.Result, o.ExitCode = nimbusv1.JobResult_JOB_RESULT_SUCCESS, new(int32)
	case EndCancelled:
		o.Result = nimbusv1.JobResult_JOB_RESULT_CANCELLED
	case EndExpired:
		o.Reason = &nimbusv1.Reason{Code: string(nimbus.ReasonLeaseExpired), Message: "the shim was not fed"}
	default:
		o.Reason = &nimbusv1.Reason{Code: string(nimbus.ReasonSandboxFailed), Message: "the machine lost power"}
	}
	return o
}
