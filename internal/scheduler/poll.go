package scheduler

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/bus"
)

const (
	// maxOffers bounds the answer to one poll; the next poll gets more.
	maxOffers = 16
	// lookInterval is how often a waiting poll looks into the books although
	// nothing woke it, since the bus may lose a message. Jittered by half.
	lookInterval = 2 * time.Second
	// coolDown keeps a host that let an offer lapse from being offered the
	// next one at once: it may be ill, and another one well.
	coolDown = 10 * time.Second
)

// Poll waits up to wait for work, or for something to cancel. Offers that the
// host was made and has neither accepted nor let lapse are made again: the
// answer may have been lost. Codes: not_found for a host that isn't known.
func (s *Service) Poll(ctx context.Context, hostID string, free nimbus.Capacity, wait time.Duration) (PollResult, error) {
	queue, own := s.bus.Subscribe(bus.TopicQueue), s.bus.Subscribe(bus.HostTopic(hostID))
	defer queue.Close()
	defer own.Close()
	deadline := time.NewTimer(min(max(wait, 0), MaxPollWait))
	defer deadline.Stop()
	for {
		result, err := s.look(ctx, hostID, free)
		if err != nil || len(result.Offers) > 0 || len(result.Cancel) > 0 {
			return result, err
		}
		again := time.NewTimer(lookInterval + rand.N(lookInterval/2))
		select {
		case <-queue.C:
		case <-own.C:
		case <-again.C:
		case <-deadline.C:
			again.Stop()
			return PollResult{}, nil
		case <-ctx.Done():
			again.Stop()
			return PollResult{}, ctx.Err()
		}
		again.Stop()
	}
}

// look answers a poll from the books as they are. It writes only when there is
// something to claim, or the host was not seen for a while.
func (s *Service) look(ctx context.Context, hostID string, free nimbus.Capacity) (PollResult, error) {
	var result PollResult
	var claim, touch bool
	err := s.store.View(ctx, func(r Reader) error {
		h, err := r.Host(ctx, hostID)
		if err != nil {
			return err
		}
		touch = r.Now().Sub(h.SeenAt) > nimbus.HeartbeatInterval
		open, err := r.OpenAttempts(ctx, hostID)
		if err != nil {
			return err
		}
		result, err = repeated(ctx, r, open)
		if err != nil || h.CoolUntil.After(r.Now()) {
			return err
		}
		waiting, err := r.QueuedClasses(ctx)
		claim = len(servable(waiting, h.Inventory, remaining(free, result.Offers))) > 0
		return err
	})
	if err != nil || !claim && !touch {
		return result, err
	}
	err = s.update(ctx, func(u *unit) error {
		if touch {
			if err := u.TouchHost(ctx, hostID); err != nil {
				return err
			}
		}
		if !claim {
			return nil
		}
		result, err = u.claim(ctx, hostID, free)
		return err
	})
	return result, err
}

// repeated is what a host has been told already and may not have heard.
func repeated(ctx context.Context, r Reader, open []*Attempt) (PollResult, error) {
	var result PollResult
	for _, a := range open {
		switch {
		case a.State == AttemptOffered && a.ExpiresAt.After(r.Now()):
			j, err := r.JobRecord(ctx, a.JobID)
			if err != nil {
				return result, err
			}
			result.Offers = append(result.Offers, nimbus.Offer{Lease: a.Lease, JobID: j.ID, Class: j.Class})
		case a.Stopping(r.Now()):
			result.Cancel = append(result.Cancel, a.AttemptID)
		}
	}
	return result, nil
}

// claim makes new offers to a host, as many as fit into what it has free, in
// the order of their rank. A job that doesn't fit is passed over.
func (u *unit) claim(ctx context.Context, hostID string, free nimbus.Capacity) (PollResult, error) {
	h, err := u.Host(ctx, hostID)
	if err != nil {
		return PollResult{}, err
	}
	open, err := u.OpenAttempts(ctx, hostID)
	if err != nil {
		return PollResult{}, err
	}
	result, err := repeated(ctx, u, open)
	if err != nil {
		return PollResult{}, err
	}
	free = remaining(free, result.Offers)
	touched := map[nimbus.Class]bool{}
	for len(result.Offers) < maxOffers {
		waiting, err := u.QueuedClasses(ctx)
		if err != nil {
			return PollResult{}, err
		}
		fit := servable(waiting, h.Inventory, free)
		if len(fit) == 0 {
			break
		}
		jobs, err := u.Claim(ctx, fit, 1)
		if err != nil {
			return PollResult{}, err
		}
		if len(jobs) == 0 {
			break
		}
		o, err := u.offer(ctx, jobs[0], hostID)
		if err != nil {
			return PollResult{}, err
		}
		result.Offers = append(result.Offers, o)
		free = remaining(free, []nimbus.Offer{o})
		touched[o.Class] = true
	}
	for class := range touched {
		if err := u.promote(ctx, class); err != nil {
			return PollResult{}, err
		}
	}
	return result, nil
}

// offer gives a queued job to a host to accept. The fencing token is minted
// here, under the lock of the job, so that a later offer always has a higher one.
func (u *unit) offer(ctx context.Context, j *JobRecord, hostID string) (nimbus.Offer, error) {
	if j.AttemptID != "" { // a lapsed offer leaves nothing behind
		if err := u.DeleteLapsed(ctx, j.AttemptID); err != nil {
			return nimbus.Offer{}, err
		}
	}
	fence, err := u.MintFence(ctx)
	if err != nil {
		return nimbus.Offer{}, fmt.Errorf("mint a fencing token: %w", err)
	}
	a := &Attempt{
		Lease: nimbus.Lease{AttemptID: nimbus.NewID(nimbus.PrefixAttempt, u.now), Fence: fence},
		JobID: j.ID, OrgID: j.OrgID, HostID: hostID, State: AttemptOffered,
		OfferedAt: u.now, ExpiresAt: u.now.Add(nimbus.OfferTimeout),
	}
	if err := u.InsertAttempt(ctx, a); err != nil {
		return nimbus.Offer{}, fmt.Errorf("write the offer: %w", err)
	}
	j.AttemptID = a.AttemptID
	err = u.move(ctx, j, Move{To: nimbus.StateOffered, Actor: actorSystem, Detail: "to " + hostID})
	return nimbus.Offer{Lease: a.Lease, JobID: j.ID, Class: j.Class}, err
}

// servable are the ids of the classes that a host with this inventory can
// start now, with what it has free.
func servable(classes []nimbus.Class, inv nimbus.Inventory, free nimbus.Capacity) []string {
	var ids []string
	for _, c := range classes {
		if free.Sandboxes > 0 && c.CPUs <= free.CPUs && c.MemoryMiB <= free.MemoryMiB && inv.Serves(c) {
			ids = append(ids, c.ID())
		}
	}
	return ids
}

// remaining is what is free once the offers are accepted.
func remaining(free nimbus.Capacity, offers []nimbus.Offer) nimbus.Capacity {
	for _, o := range offers {
		free.CPUs -= o.Class.CPUs
		free.MemoryMiB -= o.Class.MemoryMiB
		free.Sandboxes--
	}
	return free
}
