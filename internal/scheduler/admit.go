package scheduler

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// hostForgotten is how long a host that went away counts as one that will be
// back: jobs are queued for it. After that they are told that it is away.
const hostForgotten = 10 * time.Minute

// hostsInReason is how many hosts a reason names; the rest is counted.
const hostsInReason = 5

// admit writes a new job to the books, and queues it if there is room. refused
// is why it can't run whatever the hosts are, nil where it may.
func (u *unit) admit(ctx context.Context, j *JobRecord, refused *nimbus.Reason, actor string) error {
	j.ID = nimbus.NewID(nimbus.PrefixJob, u.now)
	j.MaxAttempts = u.cfg.MaxAttempts
	j.DueAt = u.now.Add(u.cfg.queueTimeout(j))
	if j.Timeline.ReceivedAt.IsZero() {
		j.Timeline.ReceivedAt = u.now
	}
	p, err := u.placeSurely(ctx, j)
	if err != nil {
		return err
	}
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
	u.promoteLater(j.Class)
	return nil
}

// placement is what can be done for a job with the hosts that there are.
type placement struct {
	class         nimbus.Class  // with an executor
	reason        nimbus.Reason // why it has to wait; empty when a host serves it
	unschedulable bool          // no host that is known will ever serve it
}

// placeSurely places a job, and looks again at the hosts as the books have them
// before it says that there is none for it.
func (u *unit) placeSurely(ctx context.Context, j *JobRecord) (placement, error) {
	p := u.place(j)
	if p.reason.Code != nimbus.ReasonNoHost || u.lookedUp {
		return p, nil
	}
	u.lookedUp = true
	if err := u.fleet.refresh(ctx, u, 0); err != nil {
		return p, err
	}
	return u.place(j), nil
}

// place decides which class a job is of, and whether a host can serve it. It
// is a pure function of the job and the hosts.
func (u *unit) place(j *JobRecord) placement {
	class := j.Class
	mayLocal := u.mayLocal(j)
	if j.AnyExecutor {
		class = u.chooseExecutor(class, mayLocal)
	}
	if class.Executor == nimbus.ExecutorLocal && !mayLocal {
		return placement{class: class, unschedulable: true, reason: untrusted(j)}
	}
	if u.fleet.anyServes(class, u.presentHost) {
		return placement{class: class} // the common way: it looks at no more hosts than it needs
	}
	hosts := u.fleet.all()
	switch {
	case len(hosts) == 0:
		return placement{class: class, reason: nimbus.Reason{Code: nimbus.ReasonNoHost, Message: "no host has joined"}}
	case !anyHost(hosts, u.presentHost):
		return placement{class: class, reason: nimbus.Reason{Code: nimbus.ReasonNoHost, Message: "every host is away"}}
	case u.fleet.anyServes(class, knownHost):
		return placement{class: class, reason: nimbus.Reason{Code: nimbus.ReasonNoHost,
			Message: fmt.Sprintf("every host that can run %s is away", class)}}
	}
	return placement{class: class, unschedulable: true, reason: nimbus.Reason{Code: nimbus.ReasonNoHost,
		Message: whyNone(hosts, class)}}
}

// chooseExecutor is for a job that leaves it to us. Hosts that are cordoned or
// away count too, after those that take jobs now: the job waits for them.
func (u *unit) chooseExecutor(class nimbus.Class, mayLocal bool) nimbus.Class {
	machine, local := class, class
	machine.Executor, local.Executor = nimbus.ExecutorMicroVM, nimbus.ExecutorLocal
	for _, counts := range []func(nimbus.Host) bool{u.readyHost, u.presentHost, knownHost} {
		switch {
		case u.fleet.anyServes(machine, counts):
			return machine
		case mayLocal && u.fleet.anyServes(local, counts):
			return local
		}
	}
	return machine
}

// mayLocal tells whether a job may run where it is not kept from its host: what
// the operator's own org submits may, all else only if the operator says so.
func (u *unit) mayLocal(j *JobRecord) bool {
	return u.cfg.AllowTrustedLocal || j.Source == nimbus.SourceNative && j.OrgID == nimbus.DefaultOrgID
}

func untrusted(j *JobRecord) nimbus.Reason {
	what := "webhook jobs are not"
	if j.Source == nimbus.SourceNative {
		what = fmt.Sprintf("jobs of orgs other than %q are not", nimbus.DefaultOrg)
	}
	return nimbus.Reason{Code: nimbus.ReasonUntrusted, Message: "the local executor is for trusted code only, and " + what +
		": ask for another executor, or start the server with --allow-trusted-local"}
}

func (u *unit) readyHost(h nimbus.Host) bool {
	return !h.Cordoned && u.now.Sub(h.SeenAt) <= nimbus.LeaseDuration
}

// presentHost tells whether a host is here, or was so recently that it may be
// on its way back.
func (u *unit) presentHost(h nimbus.Host) bool { return u.now.Sub(h.SeenAt) <= hostForgotten }

// knownHost counts every host that was not removed.
func knownHost(nimbus.Host) bool { return true }

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
func whyNone(hosts []nimbus.Host, c nimbus.Class) string {
	var parts []string
	more := 0
	for _, h := range hosts {
		switch {
		case len(parts) == hostsInReason:
			more++
		default:
			parts = append(parts, h.Name+" "+h.Inventory.WhyNot(c))
		}
	}
	if more > 0 {
		parts = append(parts, fmt.Sprintf("and %d more hosts", more))
	}
	return fmt.Sprintf("no host can run %s: %s", c, strings.Join(parts, "; "))
}
