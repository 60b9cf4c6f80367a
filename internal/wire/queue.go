package wire

import (
	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// QueuePlace makes a message; none is absent.
func QueuePlace(p *nimbus.QueuePlace) *nimbusv1.QueuePlace {
	if p == nil {
		return nil
	}
	return &nimbusv1.QueuePlace{Ahead: int32(p.Ahead), AtLeast: p.AtLeast, StartAt: Time(p.StartAt), Unknown: p.Unknown}
}

// ToQueuePlace reads one; an absent one is none.
func ToQueuePlace(p *nimbusv1.QueuePlace) *nimbus.QueuePlace {
	if p == nil {
		return nil
	}
	return &nimbus.QueuePlace{Ahead: int(p.GetAhead()), AtLeast: p.GetAtLeast(), StartAt: ToTime(p.GetStartAt()), Unknown: p.GetUnknown()}
}

// QueueClass makes a message.
func QueueClass(q nimbus.QueueClass) *nimbusv1.QueueClass {
	return &nimbusv1.QueueClass{
		Class: Class(q.Class), Waiting: int32(q.Waiting), Queued: int32(q.Queued), Unschedulable: int32(q.Unschedulable), More: q.More,
		OldestAt: Time(q.OldestAt), Running: int32(q.Running), HostsReady: int32(q.HostsReady), HostsAll: int32(q.HostsAll), FreeSlots: int32(q.FreeSlots),
	}
}

// ToQueueClass reads one.
func ToQueueClass(q *nimbusv1.QueueClass) nimbus.QueueClass {
	return nimbus.QueueClass{
		Class: ToClass(q.GetClass()), Waiting: int(q.GetWaiting()), Queued: int(q.GetQueued()), Unschedulable: int(q.GetUnschedulable()), More: q.GetMore(),
		OldestAt: ToTime(q.GetOldestAt()), Running: int(q.GetRunning()), HostsReady: int(q.GetHostsReady()), HostsAll: int(q.GetHostsAll()),
		FreeSlots: int(q.GetFreeSlots()),
	}
}

var limitKinds = map[nimbus.LimitKind]nimbusv1.LimitKind{
	nimbus.LimitOrg: nimbusv1.LimitKind_LIMIT_KIND_ORG, nimbus.LimitRepo: nimbusv1.LimitKind_LIMIT_KIND_REPO,
	nimbus.LimitLabel: nimbusv1.LimitKind_LIMIT_KIND_LABEL,
}

// LimitKind makes an enum value.
func LimitKind(k nimbus.LimitKind) nimbusv1.LimitKind { return limitKinds[k] }

// ToLimitKind reads one, "" for an unknown one.
func ToLimitKind(k nimbusv1.LimitKind) nimbus.LimitKind {
	for own, v := range limitKinds {
		if v == k {
			return own
		}
	}
	return ""
}

// Limit makes a message.
func Limit(l nimbus.Limit) *nimbusv1.Limit {
	return &nimbusv1.Limit{Kind: LimitKind(l.Kind), Name: l.Name, Most: int32(l.Most), Used: int32(l.Used)}
}

// ToLimit reads one.
func ToLimit(l *nimbusv1.Limit) nimbus.Limit {
	return nimbus.Limit{Kind: ToLimitKind(l.GetKind()), Name: l.GetName(), Most: int(l.GetMost()), Used: int(l.GetUsed())}
}

// Weight makes a message.
func Weight(w nimbus.Weight) *nimbusv1.Weight {
	return &nimbusv1.Weight{Repo: w.Repo, Percent: int32(w.Percent)}
}

// ToWeight reads one.
func ToWeight(w *nimbusv1.Weight) nimbus.Weight {
	return nimbus.Weight{Repo: w.GetRepo(), Percent: int(w.GetPercent())}
}
