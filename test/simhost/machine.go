package simhost

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// Times of the simulated agent; they are those of the real one.
const (
	pollWait    = 20 * time.Second
	callTimeout = 15 * time.Second
	pauseFirst  = 100 * time.Millisecond
	pauseMost   = 5 * time.Second
)

// Machine is a host with an agent and sandboxes. The agent can be killed and
// booted again; its sandboxes live on under their shims meanwhile. The machine
// can lose power, which ends all of it but the disk, and be paused, which stops
// everything but the clock.
type Machine struct {
	*Host
	// GitHub is what its runners speak to, for a machine that gets GitHub's jobs.
	GitHub  GitHub
	records *Records
	gate    *gate
	running sync.WaitGroup // processes

	mu   sync.Mutex
	disk map[string]*sandbox // by attempt: what the agent knows after a restart
	kill context.CancelFunc  // of the agent; nil while there is none
	gone chan struct{}       // closed once the agent has ended
}

// NewMachine makes a machine of a host that has joined. Boot starts its agent.
func NewMachine(h *Host, r *Records) *Machine {
	return &Machine{Host: h, records: r, gate: newGate(), disk: map[string]*sandbox{}}
}

// Boot starts the agent, which takes over what an earlier one has left. It does
// nothing while there is one.
func (m *Machine) Boot(ctx context.Context) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.kill != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	gone := make(chan struct{})
	m.kill, m.gone = cancel, gone
	go func() {
		defer close(gone)
		(&agent{Machine: m}).run(ctx)
	}()
}

// KillAgent is kill -9 of the agent: its connections end without a word, its
// sandboxes go on.
func (m *Machine) KillAgent() {
	m.mu.Lock()
	kill, gone := m.kill, m.gone
	m.kill = nil
	m.mu.Unlock()
	if kill == nil {
		return
	}
	m.Cut()
	kill()
	<-gone
}

// LosePower ends the agent and all sandboxes at once.
func (m *Machine) LosePower() {
	m.KillAgent()
	for _, b := range m.sandboxes() {
		b.kill(EndCrashed)
	}
	m.running.Wait()
}

// Pause stops agent and sandboxes until Resume. Clocks go on.
func (m *Machine) Pause() { m.gate.pause() }

// Resume ends a pause.
func (m *Machine) Resume() { m.gate.resume() }

// Close ends the machine for good.
func (m *Machine) Close() {
	m.Resume()
	m.LosePower()
	m.Host.Close()
}

// Idle tells whether the machine has nothing left to do or to report.
func (m *Machine) Idle() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.disk) == 0
}

func (m *Machine) sandboxes() []*sandbox {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]*sandbox, 0, len(m.disk))
	for _, b := range m.disk {
		out = append(out, b)
	}
	return out
}

func (m *Machine) find(attemptID string) *sandbox {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.disk[attemptID]
}

func (m *Machine) keep(b *sandbox) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.disk[b.lease.GetAttemptId()] = b
}

func (m *Machine) forget(b *sandbox) {
	m.Drop(b.lease)
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.disk, b.lease.GetAttemptId())
}

// backoff waits between tries, longer each time.
type backoff struct{ next time.Duration }

func (b *backoff) wait(ctx context.Context) bool {
	b.next = min(max(2*b.next, pauseFirst), pauseMost)
	timer := time.NewTimer(b.next/2 + rand.N(b.next))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// call repeats a call until it is answered for good. Nothing is sent, and no
// answer is read, while the machine is paused.
func call[Q, R any](
	ctx context.Context, m *Machine, rpc func(context.Context, *connect.Request[Q]) (*connect.Response[R], error), request *Q,
) (*R, error) {
	var pause backoff
	for {
		if !m.gate.pass(ctx.Done()) {
			return nil, ctx.Err()
		}
		bounded, cancel := context.WithTimeout(ctx, callTimeout)
		answer, err := rpc(bounded, connect.NewRequest(request))
		cancel()
		switch {
		case !m.gate.pass(ctx.Done()):
			return nil, ctx.Err()
		case err == nil:
			return answer.Msg, nil
		case !again(err) || !pause.wait(ctx):
			return nil, err
		}
	}
}

// again tells whether a call may succeed later.
func again(err error) bool {
	switch nimbus.ErrorCode(err) {
	case nimbus.CodeFenced, nimbus.CodeInvalid, nimbus.CodeConflict, nimbus.CodeNotFound, nimbus.CodeForbidden, nimbus.CodeUnauthenticated:
		return false
	}
	return true
}

// obey does what the control plane says of a lease.
func (b *sandbox) obey(s *nimbusv1.LeaseStatus, sent time.Time) {
	switch nimbus.Verdict(s.GetVerdict()) {
	case nimbus.VerdictKeep:
		b.feed(sent)
	case nimbus.VerdictCancel:
		b.feed(sent) // it gets its time to end
		b.kill(EndCancelled)
	case nimbus.VerdictFenced:
		b.kill(EndFenced)
	}
}
