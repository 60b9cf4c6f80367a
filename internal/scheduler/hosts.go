package scheduler

import (
	"context"
	"errors"
	"strings"

	"github.com/nimbus-ci/nimbus"
)

// maxExecutors bounds an inventory.
const maxExecutors = 32

// Hosts lists all hosts by name.
func (s *Service) Hosts(ctx context.Context) ([]nimbus.Host, error) {
	var hosts []nimbus.Host
	err := s.store.View(ctx, func(r Reader) (err error) {
		hosts, err = r.Hosts(ctx)
		return err
	})
	return hosts, err
}

// RegisterHost makes a host. The caller has checked its right to join. Codes:
// invalid.
func (s *Service) RegisterHost(ctx context.Context, name, version string, inv nimbus.Inventory) (nimbus.Host, error) {
	if err := errors.Join(checkHostName(name), checkInventory(version, inv)); err != nil {
		return nimbus.Host{}, err
	}
	var h nimbus.Host
	err := s.update(ctx, func(u *unit) error {
		h = nimbus.Host{ID: nimbus.NewID(nimbus.PrefixHost, u.now), Name: name, State: nimbus.HostReady,
			Version: version, JoinedAt: u.now, SeenAt: u.now, Inventory: inv}
		if err := u.InsertHost(ctx, h); err != nil {
			return err
		}
		return u.review(ctx)
	})
	return h, err
}

// Hello tells what a starting agent has, and which leases it still holds; each
// gets its verdict. A lease that it does not name is left to expire: nobody
// knows whether its sandbox is gone. Codes: not_found for a host that isn't
// known, invalid.
func (s *Service) Hello(ctx context.Context, hostID, version string, inv nimbus.Inventory, leases []nimbus.Lease) ([]nimbus.LeaseStatus, error) {
	if err := checkInventory(version, inv); err != nil {
		return nil, err
	}
	var statuses []nimbus.LeaseStatus
	err := s.update(ctx, func(u *unit) (err error) {
		if err := u.UpdateHost(ctx, hostID, version, inv); err != nil {
			return err
		}
		if statuses, err = u.renew(ctx, hostID, leases); err != nil {
			return err
		}
		return u.review(ctx)
	})
	return statuses, err
}

// Heartbeat renews leases; each gets its verdict. Codes: not_found for a host
// that isn't known.
func (s *Service) Heartbeat(ctx context.Context, hostID string, leases []nimbus.Lease) ([]nimbus.LeaseStatus, error) {
	var statuses []nimbus.LeaseStatus
	err := s.update(ctx, func(u *unit) (err error) {
		if err := u.TouchHost(ctx, hostID); err != nil {
			return err
		}
		statuses, err = u.renew(ctx, hostID, leases)
		return err
	})
	return statuses, err
}

// renew moves the end of leases. One that has expired stays so, even where no
// sweep has seen it yet: its sandbox was killed by its shim before.
func (u *unit) renew(ctx context.Context, hostID string, leases []nimbus.Lease) ([]nimbus.LeaseStatus, error) {
	if len(leases) > MaxLeasesPerCall {
		return nil, nimbus.Errorf(nimbus.CodeTooLarge, "at most %d leases are renewed at once", MaxLeasesPerCall)
	}
	statuses := make([]nimbus.LeaseStatus, len(leases))
	for i, l := range leases {
		jobID, stopAt, ok, err := u.RenewLease(ctx, hostID, l, u.now.Add(nimbus.LeaseDuration))
		if err != nil {
			return nil, err
		}
		statuses[i] = nimbus.LeaseStatus{AttemptID: l.AttemptID, Verdict: nimbus.VerdictKeep}
		switch {
		case !ok:
			statuses[i].Verdict, statuses[i].Reason = nimbus.VerdictFenced, "the lease is not this host's any more"
		case !stopAt.IsZero() && !stopAt.After(u.now):
			j, err := u.JobRecord(ctx, jobID)
			if err != nil {
				return nil, err
			}
			statuses[i].Verdict, statuses[i].Reason = nimbus.VerdictCancel, whyStopped(j)
		}
	}
	return statuses, nil
}

// whyStopped is the sentence for the host, and for the job's log.
func whyStopped(j *JobRecord) string {
	switch {
	case j.Stop.Reason.Message != "":
		return j.Stop.Reason.Message
	case j.Reason.Message != "":
		return j.Reason.Message
	}
	return "the job is over"
}

func checkHostName(name string) error {
	invisible := func(r rune) bool { return r <= ' ' || r == 0x7f }
	if name == "" || len(name) > MaxHostNameBytes || strings.ContainsFunc(name, invisible) {
		return nimbus.Errorf(nimbus.CodeInvalid, "a host's name has 1 to %d visible characters", MaxHostNameBytes)
	}
	return nil
}

func checkInventory(version string, inv nimbus.Inventory) error {
	switch {
	case len(version) > MaxHostNameBytes:
		return nimbus.Errorf(nimbus.CodeInvalid, "a version has at most %d bytes", MaxHostNameBytes)
	case inv.CPUs < 1 || inv.MemoryMiB < 1:
		return nimbus.Errorf(nimbus.CodeInvalid, "a host without CPUs or memory can't run jobs")
	case len(inv.Executors) > maxExecutors:
		return nimbus.Errorf(nimbus.CodeTooLarge, "a host has at most %d executors", maxExecutors)
	}
	return nil
}
