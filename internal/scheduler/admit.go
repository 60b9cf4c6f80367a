package scheduler

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// hostForgotten is how long a host that went away still counts as one that may
// come back: jobs wait for it instead of becoming unschedulable at each restart.
const hostForgotten = 10 * time.Minute

// hostsInReason is how many hosts a reason names; the rest is counted.
const hostsInReason = 5

// admit writes a new job to the books, and queues it if there is room. refused
// is why it can't run whatever the hosts are, nil where it may.
func (u *unit) admit(ctx context.Context, j *JobRecord, refused *nimbus.Reason, actor string) error {
	j.ID = nimbus.NewID(nimbus.PrefixJob, u.now)
	j.MaxAttempts = u.cfg.MaxAttempts
	j.DueAt = u.now.Add(u.cfg.QueueTimeout)
	if j.Timeline.ReceivedAt.IsZero() {
		j.Timeline.ReceivedAt = u.now
	}
	hosts, err := u.Hosts(ctx)
	if err != nil {
		return err
	}
	p := u.place(j, hosts)
	j.Class = p.class
	if err := u.InsertJob(ctx, j, actor); err != nil {
		return err
	}
	u.changed(j)
	switch {
	case refused != nil:
		return u.move(ctx, j, Move{To: nimbus.StateUnschedulable, Reason: *refused, Actor: actorSystem})
	case p.unschedulable:
		return u.move(ctx, j, Move{To: nimbus.StateUnschedulable, Reason: p.reason, Actor: actorSystem})
	case p.reason.Code != "":
		j.Reason = p.reason
		return u.SaveJob(ctx, j)
	}
	return u.promote(ctx, j.Class)
}

// placement is what can be done for a job with the hosts that there are.
type placement struct {
	class         nimbus.Class  // with an executor
	reason        nimbus.Reason // why it has to wait; empty when a host serves it
	unschedulable bool          // no host that is here will ever serve it
}

// place decides which class a job is of, and whether a host can serve it. It
// is a pure function of the job and the hosts.
func (u *unit) place(j *JobRecord, hosts []nimbus.Host) placement {
	mayLocal := j.Source == nimbus.SourceNative || u.cfg.AllowTrustedLocal
	class := j.Class
	if j.AnyExecutor {
		class.Executor = nimbus.ExecutorMicroVM
		local := class
		local.Executor = nimbus.ExecutorLocal
		if mayLocal && !anyServes(hosts, class, readyHost) && anyServes(hosts, local, readyHost) {
			class = local
		}
	}
	if class.Executor == nimbus.ExecutorLocal && !mayLocal {
		return placement{class: class, unschedulable: true, reason: nimbus.Reason{Code: nimbus.ReasonUntrusted,
			Message: "the local executor is for trusted code only, and webhook jobs are not: " +
				"take the label local away, or start the server with --allow-trusted-local"}}
	}
	present := u.presentHost
	switch {
	case anyServes(hosts, class, present):
		return placement{class: class}
	case !anyHost(hosts, present) && len(hosts) > 0:
		return placement{class: class, reason: nimbus.Reason{Code: nimbus.ReasonNoHost, Message: "every host is away"}}
	case len(hosts) == 0:
		return placement{class: class, reason: nimbus.Reason{Code: nimbus.ReasonNoHost, Message: "no host has joined"}}
	}
	return placement{class: class, unschedulable: true, reason: nimbus.Reason{Code: nimbus.ReasonNoHost,
		Message: whyNone(hosts, class, present)}}
}

func readyHost(h nimbus.Host) bool { return h.State == nimbus.HostReady }

// presentHost tells whether a host is here, or was so recently that it may be
// on its way back.
func (u *unit) presentHost(h nimbus.Host) bool { return u.now.Sub(h.SeenAt) <= hostForgotten }

func anyServes(hosts []nimbus.Host, c nimbus.Class, counts func(nimbus.Host) bool) bool {
	return anyHost(hosts, func(h nimbus.Host) bool { return counts(h) && h.Inventory.Serves(c) })
}

func anyHost(hosts []nimbus.Host, is func(nimbus.Host) bool) bool {
	for _, h := range hosts {
		if is(h) {
			return true
		}
	}
	return false
}

// whyNone is the sentence for a person whose job no host can run: each host
// with its own reason.
func whyNone(hosts []nimbus.Host, c nimbus.Class, counts func(nimbus.Host) bool) string {
	var parts []string
	more := 0
	for _, h := range hosts {
		switch {
		case !counts(h):
		case len(parts) == hostsInReason:
			more++
		default:
			parts = append(parts, h.Name+" "+whyNot(h.Inventory, c))
		}
	}
	if more > 0 {
		parts = append(parts, fmt.Sprintf("and %d more hosts", more))
	}
	return fmt.Sprintf("no host can run %s: %s", c, strings.Join(parts, "; "))
}

// whyNot tells why a host with this inventory can't serve c.
func whyNot(inv nimbus.Inventory, c nimbus.Class) string {
	switch {
	case c.Arch != "" && c.Arch != inv.Arch:
		return fmt.Sprintf("is %s", inv.Arch)
	case c.CPUs > inv.CPUs:
		return fmt.Sprintf("has %d CPUs", inv.CPUs)
	case c.MemoryMiB > inv.MemoryMiB:
		return fmt.Sprintf("has %d MiB of memory", inv.MemoryMiB)
	}
	for _, e := range inv.Executors {
		if e.Name != c.Executor {
			continue
		}
		why := "can't use " + e.Name
		if e.Detail != "" {
			why += ": " + clip(e.Detail)
		}
		if e.Hint != "" {
			why += " (" + clip(e.Hint) + ")"
		}
		return why
	}
	return "has no executor " + c.Executor
}
