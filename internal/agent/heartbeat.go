package agent

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// runHeartbeatLoop renews all leases in one call, and each sandbox' deadline
// after it. It beats without leases too: that is how the host stays ready.
func (a *Agent) runHeartbeatLoop(ctx context.Context) error {
	ticker := time.NewTicker(nimbus.HeartbeatInterval)
	defer ticker.Stop()
	for {
		if err := a.heartbeat(ctx); err != nil && ctx.Err() == nil && a.session.lost() == nil {
			a.log.WarnContext(ctx, "heartbeat", "error", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// Copies are contents of the cache that a host has on its own disk. It is asked at
// each heartbeat to have more of them, and tells at one what became of that.
type Copies interface {
	Wish(all []nimbus.CacheWish)
	// Warmed is told until Forget.
	Warmed(most int) []nimbus.CacheWarmed
	Forget(told []nimbus.CacheWarmed)
	// Copies is what they did, and what they take: each poll tells it.
	Copies() nimbus.CacheCopies
}

// maxWarmed is of how many contents a heartbeat tells.
const maxWarmed = 64

func (a *Agent) heartbeat(ctx context.Context) error {
	var leases []nimbus.Lease
	for _, t := range a.current() {
		if t.leased() {
			leases = append(leases, t.lease())
		}
	}
	ctx, cancel := context.WithTimeout(ctx, nimbus.HeartbeatInterval)
	defer cancel()
	// A deadline counts from before the renewal was sent: it may have taken
	// effect at any moment after that.
	sent := time.Now()
	request := &nimbusv1.HeartbeatRequest{Leases: wire.Leases(leases)}
	var warmed []nimbus.CacheWarmed
	if a.cfg.Copies != nil {
		warmed = a.cfg.Copies.Warmed(maxWarmed)
	}
	for _, w := range warmed {
		request.Warmed = append(request.Warmed, wire.CacheWarmed(w))
	}
	answer, err := a.control.Heartbeat(ctx, connect.NewRequest(request))
	if err != nil {
		return err
	}
	if a.cfg.Copies != nil {
		a.cfg.Copies.Forget(warmed)
		a.cfg.Copies.Wish(wishes(answer.Msg.GetWishes()))
	}
	for _, status := range wire.ToLeaseStatuses(answer.Msg.GetLeases()) {
		if t := a.find(status.AttemptID); t != nil {
			t.obey(ctx, status, sent)
		}
	}
	return nil
}

// wishes reads as many as a host may be asked for at once.
func wishes(all []*nimbusv1.CacheWish) []nimbus.CacheWish {
	out := make([]nimbus.CacheWish, 0, min(len(all), maxWarmed))
	for _, m := range all[:min(len(all), maxWarmed)] {
		out = append(out, wire.ToCacheWish(m))
	}
	return out
}

// obey does what the control plane says of a lease.
func (t *attempt) obey(ctx context.Context, status nimbus.LeaseStatus, sent time.Time) {
	switch status.Verdict {
	case nimbus.VerdictKeep:
		t.renew(ctx, sent)
	case nimbus.VerdictCancel:
		t.renew(ctx, sent) // it gets its time to end
		t.end(errCancelled)
	case nimbus.VerdictFenced:
		t.end(errFenced)
	}
}

// hold makes sure, before a process is started, that the lease is still ours
// and that the shim ends the sandbox with it. Without a renewal in time the job
// may be somebody else's already.
func (t *attempt) hold(ctx context.Context) error {
	t.mu.Lock()
	sandbox, left := t.sandbox, nimbus.ShimDeadline-time.Since(t.renewed)
	t.mu.Unlock()
	if left <= 0 {
		return &startError{nimbus.ReasonHostShutdown, errors.New("the lease was not renewed in time while the sandbox was made")}
	}
	return sandbox.Renew(ctx, left)
}

// renew moves the sandbox' deadline: nimbus.ShimDeadline from when the
// confirmed renewal was sent.
func (t *attempt) renew(ctx context.Context, sent time.Time) {
	t.mu.Lock()
	if sent.After(t.renewed) {
		t.renewed = sent
	}
	sandbox, renewed := t.sandbox, t.renewed
	t.mu.Unlock()
	if sandbox == nil {
		return
	}
	if err := sandbox.Renew(ctx, nimbus.ShimDeadline-time.Since(renewed)); err != nil {
		t.log.DebugContext(ctx, "renew sandbox", "error", err) // it has ended, or will
	}
}
