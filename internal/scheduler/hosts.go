package scheduler

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/nimbus-ci/nimbus"
)

// Hosts lists all hosts by name.
func (s *Service) Hosts(ctx context.Context) ([]nimbus.Host, error) {
	var all []nimbus.Host
	for after := ""; ; {
		hosts, next, err := s.HostPage(ctx, MaxPageSize, after)
		all = append(all, hosts...)
		if after = next; next == "" || err != nil {
			slices.SortFunc(all, func(a, b nimbus.Host) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
			return all, err
		}
	}
}

// HostPage lists hosts in the order in which they joined.
func (s *Service) HostPage(ctx context.Context, size int, after string) (hosts []nimbus.Host, next string, err error) {
	size = pageSize(size)
	err = s.store.View(ctx, func(r Reader) (err error) {
		hosts, err = r.Hosts(ctx, after, size+1)
		return err
	})
	if len(hosts) > size {
		hosts = hosts[:size]
		next = hosts[size-1].ID
	}
	return hosts, next, err
}

// RegisterHost makes a host. The caller has checked its right to join. Codes:
// invalid, unsupported for an agent that is too old or too new.
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
		if err := u.Audit(ctx, nimbus.AuditEvent{Actor: actorHost(h.ID), Action: "host.join", Target: h.ID, Outcome: nimbus.AuditAllowed,
			Detail: map[string]string{"name": name}}); err != nil {
			return err
		}
		return u.review(ctx)
	})
	return h, err
}

// Hello tells what a starting agent has, and which leases it still holds; each
// gets its verdict. A lease that it does not name is left to expire: nobody
// knows whether its sandbox is gone. Codes: not_found for a host that isn't
// known, invalid, unsupported for an agent that is too old or too new.
func (s *Service) Hello(ctx context.Context, hostID, version string, inv nimbus.Inventory, leases []nimbus.Lease) ([]nimbus.LeaseStatus, error) {
	if err := errors.Join(checkInventory(version, inv), checkLeases(leases)); err != nil {
		return nil, err
	}
	var statuses []nimbus.LeaseStatus
	err := s.update(ctx, func(u *unit) (err error) {
		if err := u.UpdateHost(ctx, hostID, version, inv); err != nil {
			return err
		}
		b := &beat{hostID: hostID, leases: leases}
		if err := u.renew(ctx, []*beat{b}); err != nil {
			return err
		}
		statuses = b.statuses
		return u.review(ctx)
	})
	return statuses, err
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
	if len(version) > MaxHostNameBytes {
		return nimbus.Errorf(nimbus.CodeInvalid, "a version has at most %d bytes", MaxHostNameBytes)
	}
	return errors.Join(nimbus.CheckProtocol(inv.Protocol, nimbus.AgentProtocol), inv.Check())
}
