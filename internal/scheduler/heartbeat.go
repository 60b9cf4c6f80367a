package scheduler

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/nimbus-ci/nimbus"
)

// beatsMost bounds how many hosts' heartbeats share a transaction.
const beatsMost = 512

// beat is one host's heartbeat.
type beat struct {
	hostID   string
	leases   []nimbus.Lease
	statuses []nimbus.LeaseStatus
	err      error
	done     chan struct{}
}

// heartbeats renews the leases of all hosts that call at the same time in one
// transaction: at ten thousand hosts that is two thousand calls a second.
type heartbeats struct {
	service *Service

	mu      sync.Mutex
	waiting []*beat
	running bool
}

func newHeartbeats(s *Service) *heartbeats { return &heartbeats{service: s} }

// Heartbeat renews leases; each gets its verdict. Codes: not_found for a host
// that isn't known.
func (s *Service) Heartbeat(ctx context.Context, hostID string, leases []nimbus.Lease) ([]nimbus.LeaseStatus, error) {
	if err := checkLeases(leases); err != nil {
		return nil, err
	}
	b := &beat{hostID: hostID, leases: leases, done: make(chan struct{})}
	h := s.beats
	h.mu.Lock()
	h.waiting = append(h.waiting, b)
	if !h.running {
		h.running = true
		go h.drain(context.WithoutCancel(ctx)) // ends when nobody waits
	}
	h.mu.Unlock()
	select {
	case <-b.done:
		return b.statuses, b.err
	case <-ctx.Done():
		return nil, fmt.Errorf("renew leases: %w", context.Cause(ctx))
	}
}

func (h *heartbeats) drain(ctx context.Context) {
	for {
		h.mu.Lock()
		n := min(len(h.waiting), beatsMost)
		if n == 0 {
			h.running = false
			h.mu.Unlock()
			return
		}
		beats := slices.Clone(h.waiting[:n])
		h.waiting = slices.Delete(h.waiting, 0, n)
		h.mu.Unlock()
		bounded, cancel := context.WithTimeout(ctx, batchTimeout)
		err := h.service.renewAll(bounded, beats)
		cancel()
		for _, b := range beats {
			if err != nil {
				b.err = err
			}
			close(b.done)
		}
	}
}

// renewAll renews the leases of hosts. One that isn't known fails alone.
func (s *Service) renewAll(ctx context.Context, beats []*beat) error {
	err := s.update(ctx, func(u *unit) error {
		if err := u.touch(ctx, beats); err != nil {
			return err
		}
		return u.renew(ctx, slices.DeleteFunc(slices.Clone(beats), func(b *beat) bool { return b.err != nil }))
	})
	if err == nil {
		s.observeVerdicts(beats)
	}
	return err
}

// touch notes that hosts were heard of.
func (u *unit) touch(ctx context.Context, beats []*beat) error {
	var write []string
	for _, b := range beats {
		b.err = nil
		known, stale := u.fleet.touch(b.hostID, u.now)
		if !known {
			if err := u.learn(ctx, b.hostID); err != nil {
				b.err = err
				if nimbus.ErrorCode(err) != nimbus.CodeNotFound {
					return err
				}
				continue
			}
			_, stale = u.fleet.touch(b.hostID, u.now)
		}
		if stale {
			write = append(write, b.hostID)
		}
	}
	return u.TouchHosts(ctx, u.fleet.free(write))
}

// learn takes a host into the fleet that another replica may have let join.
func (b *batch) learn(ctx context.Context, hostID string) error {
	h, err := b.Host(ctx, hostID)
	if err != nil {
		return err
	}
	b.fleet.add(h)
	return nil
}

// renew moves the end of leases. One that has expired stays so, even where no
// sweep has seen it yet: its sandbox was killed by its shim before.
func (u *unit) renew(ctx context.Context, beats []*beat) error {
	var held []HeldLease
	for _, b := range beats {
		for _, l := range b.leases {
			held = append(held, HeldLease{Lease: l, HostID: b.hostID})
		}
	}
	renewed, err := u.RenewLeases(ctx, held, u.now.Add(nimbus.LeaseDuration))
	if err != nil {
		return err
	}
	// By the whole lease: another beat may claim the same attempt wrongly.
	byLease := make(map[HeldLease]Renewal, len(renewed))
	for _, r := range renewed {
		byLease[r.HeldLease] = r
	}
	for _, b := range beats {
		b.statuses = make([]nimbus.LeaseStatus, len(b.leases))
		for i, l := range b.leases {
			r, ok := byLease[HeldLease{Lease: l, HostID: b.hostID}]
			if b.statuses[i], err = u.verdict(ctx, l, r, ok); err != nil {
				return err
			}
		}
	}
	return nil
}

// verdict is what a host has to do about a lease.
func (u *unit) verdict(ctx context.Context, l nimbus.Lease, r Renewal, renewed bool) (nimbus.LeaseStatus, error) {
	status := nimbus.LeaseStatus{AttemptID: l.AttemptID, Verdict: nimbus.VerdictKeep}
	switch {
	case !renewed:
		status.Verdict, status.Reason = nimbus.VerdictFenced, "the lease is not this host's any more"
	case !r.StopAt.IsZero() && !r.StopAt.After(u.now):
		j, err := u.JobRecord(ctx, r.JobID)
		if err != nil {
			return status, err
		}
		status.Verdict, status.Reason = nimbus.VerdictCancel, whyStopped(j)
	}
	return status, nil
}

func checkLeases(leases []nimbus.Lease) error {
	if len(leases) > MaxLeasesPerCall {
		return nimbus.Errorf(nimbus.CodeTooLarge, "at most %d leases are renewed at once", MaxLeasesPerCall)
	}
	return nil
}
