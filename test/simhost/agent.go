package simhost

import (
	"context"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// agent is one process of the agent, from its start to its death.
type agent struct {
	*Machine
	attending sync.WaitGroup
}

// run takes over what is on the disk and works until ctx ends.
func (a *agent) run(ctx context.Context) {
	defer a.attending.Wait()
	if !a.hello(ctx) {
		return
	}
	for _, b := range a.sandboxes() {
		if b.reason() != EndFenced && !b.start() {
			b.kill(EndCrashed) // its process was never started
		}
		a.attend(ctx, b)
	}
	var loops sync.WaitGroup
	loops.Go(func() { a.runHeartbeatLoop(ctx) })
	loops.Go(func() { a.runPollLoop(ctx) })
	loops.Wait()
}

func (a *agent) hello(ctx context.Context) bool {
	request := &nimbusv1.HelloRequest{Version: version, Inventory: a.inventory()}
	for _, b := range a.sandboxes() {
		request.Leases = append(request.Leases, b.lease)
	}
	sent := time.Now()
	answer, err := call(ctx, a.Machine, a.API.Hello, request)
	if err != nil {
		return false
	}
	a.obey(answer.GetLeases(), sent)
	return true
}

func (a *agent) obey(statuses []*nimbusv1.LeaseStatus, sent time.Time) {
	for _, s := range statuses {
		if b := a.find(s.GetAttemptId()); b != nil {
			b.obey(s, sent)
		}
	}
}

// runHeartbeatLoop renews all leases; a deadline counts from before the renewal
// was sent.
func (a *agent) runHeartbeatLoop(ctx context.Context) {
	tick := time.NewTicker(nimbus.HeartbeatInterval)
	defer tick.Stop()
	for a.gate.pass(ctx.Done()) {
		bounded, cancel := context.WithTimeout(ctx, nimbus.HeartbeatInterval)
		sent := time.Now()
		statuses, err := a.Heartbeat(bounded)
		cancel()
		if !a.gate.pass(ctx.Done()) {
			return
		}
		if err == nil {
			a.obey(statuses, sent)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (a *agent) runPollLoop(ctx context.Context) {
	var pause backoff
	for a.gate.pass(ctx.Done()) {
		bounded, cancel := context.WithTimeout(ctx, pollWait+callTimeout)
		answer, err := a.poll(bounded, pollWait)
		cancel()
		if !a.gate.pass(ctx.Done()) {
			return
		}
		if err != nil {
			pause.wait(ctx)
			continue
		}
		pause = backoff{}
		for _, id := range answer.GetCancelAttemptIds() {
			if b := a.find(id); b != nil {
				b.kill(EndCancelled)
			}
		}
		for _, o := range answer.GetOffers() {
			a.accept(ctx, o.GetLease())
		}
	}
}

// accept takes an offer. Its deadline counts from before the first try.
func (a *agent) accept(ctx context.Context, l *nimbusv1.Lease) {
	if a.find(l.GetAttemptId()) != nil {
		return
	}
	a.Hold(l)
	sent := time.Now()
	bounded, cancel := context.WithTimeout(ctx, nimbus.LeaseDuration)
	defer cancel()
	answer, err := call(bounded, a.Machine, a.API.Accept, &nimbusv1.AcceptRequest{Lease: l})
	if err != nil {
		a.Drop(l)
		return
	}
	b := newSandbox(a.Machine, answer.GetAssignment(), sent)
	a.keep(b)
	a.attend(ctx, b)
}

// attend takes an attempt from wherever it is to its end, or until the agent
// dies.
func (a *agent) attend(ctx context.Context, b *sandbox) {
	a.attending.Go(func() {
		if b.lacksRunner() {
			switch err := a.register(ctx, b); {
			case ctx.Err() != nil:
				return
			case nimbus.ErrorCode(err) == nimbus.CodeFenced:
				b.kill(EndFenced)
			case err != nil:
				b.kill(EndCrashed)
			}
		}
		if b.start() {
			if err := a.report(ctx, b, nimbus.PhaseStarted); nimbus.ErrorCode(err) == nimbus.CodeFenced {
				b.kill(EndFenced)
			}
		} else {
			b.kill(EndExpired)
		}
		select {
		case <-b.ended:
		case <-ctx.Done():
			return
		}
		if b.reason() != EndFenced && !a.finish(ctx, b) {
			return
		}
		bounded, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		_ = a.report(bounded, b, nimbus.PhaseDestroyed) // worth one try
		if ctx.Err() == nil {
			a.forget(b)
		}
	})
}

func (a *agent) report(ctx context.Context, b *sandbox, p nimbus.Phase) error {
	_, err := call(ctx, a.Machine, a.API.ReportPhase, &nimbusv1.ReportPhaseRequest{Lease: b.lease, Phase: string(p)})
	return err
}

// finish reports the end for as long as it takes to be answered, and tells
// whether it was.
func (a *agent) finish(ctx context.Context, b *sandbox) bool {
	_, err := call(ctx, a.Machine, a.API.FinishAttempt, &nimbusv1.FinishAttemptRequest{Lease: b.lease, Outcome: b.outcome()})
	if err == nil {
		a.records.edit(func() { b.record.Acknowledged = true })
	}
	return err == nil || ctx.Err() == nil
}
