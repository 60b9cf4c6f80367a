package agent

import (
	"context"
	"time"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// pollWait is how long one poll waits for work.
const pollWait = 20 * time.Second

// runPollLoop asks for work for as long as ctx lasts. It polls with nothing
// free too: that is how it hears of cancellations at once.
func (a *Agent) runPollLoop(ctx context.Context) error {
	var pause backoff
	for ctx.Err() == nil {
		answer, err := a.poll(ctx)
		if err != nil {
			if ctx.Err() == nil && !a.session.awaitQuestion(ctx) { // which has said why
				a.log.WarnContext(ctx, "poll", "error", err)
				pause.wait(ctx)
			}
			continue
		}
		pause = backoff{}
		news := len(answer.GetOffers()) > 0 || len(answer.GetCancelAttemptIds())+len(answer.GetShells()) == 0
		news = a.callShells(answer.GetShells()) || news
		for _, id := range answer.GetCancelAttemptIds() {
			if t := a.find(id); t != nil && t.why() == nil {
				t.end(errCancelled)
				news = true
			}
		}
		for _, o := range answer.GetOffers() {
			a.accept(ctx, wire.ToOffer(o))
		}
		if !news {
			a.rest(ctx)
		}
	}
	return nil
}

// oldNewsPause is how long the agent waits after a poll that was answered at
// once with nothing but cancellations and shells that it is about already.
const oldNewsPause = 500 * time.Millisecond

// rest waits a while, or until room becomes free.
func (a *Agent) rest(ctx context.Context) {
	_, more := a.free()
	select {
	case <-more:
	case <-time.After(oldNewsPause):
	case <-ctx.Done():
	}
}

// poll asks once. It gives up when room becomes free: the question was wrong
// then. An offer that was on its way comes again with the next poll.
func (a *Agent) poll(ctx context.Context) (*nimbusv1.PollResponse, error) {
	free, more := a.free()
	ctx, cancel := context.WithTimeout(ctx, pollWait+callTimeout)
	defer cancel()
	answered := make(chan struct{})
	defer close(answered)
	go func() {
		select {
		case <-more:
			cancel()
		case <-answered:
		}
	}()
	answer, err := a.control.Poll(ctx, connect.NewRequest(wire.PollRequest(free, pollWait)))
	if err != nil {
		select {
		case <-more:
			return &nimbusv1.PollResponse{}, nil
		default:
			return nil, err
		}
	}
	return answer.Msg, nil
}

// accept takes an offer for which there is room.
func (a *Agent) accept(ctx context.Context, o nimbus.Offer) {
	if a.find(o.AttemptID) != nil {
		return
	}
	reserved, ok := a.capacity.reserve(o.Class)
	if !ok {
		return
	}
	sent := time.Now()
	ctxAccept, cancel := context.WithTimeout(ctx, nimbus.LeaseDuration)
	defer cancel()
	answer, err := call(ctxAccept, a.control.Accept, &nimbusv1.AcceptRequest{Lease: wire.Lease(o.Lease)})
	if err != nil {
		a.capacity.release(reserved)
		if nimbus.ErrorCode(err) != nimbus.CodeFenced && ctx.Err() == nil {
			a.log.WarnContext(ctx, "accept", "attempt", o.AttemptID, "error", err)
		}
		return
	}
	t, err := a.newAttempt(wire.ToAssignment(answer.GetAssignment()), reserved, sent)
	if err != nil {
		// The lease runs out, and somebody with a sound disk gets the job.
		a.capacity.release(reserved)
		a.log.ErrorContext(ctx, "begin attempt", "attempt", o.AttemptID, "error", err)
		return
	}
	a.add(ctx, t)
}
