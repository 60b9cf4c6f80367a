package nimbus

import (
	"slices"
	"strings"
	"time"
)

// QueuePlace is where a waiting job stands among those that want the same.
type QueuePlace struct {
	// Ahead is how many jobs of its class are before it, as things are now;
	// what comes later may still overtake it, where fairness says so. AtLeast
	// says that counting ended there.
	Ahead   int
	AtLeast bool
	// StartAt is when it may be expected to start, zero where that can't be
	// told; then Unknown is why.
	StartAt time.Time
	Unknown string
}

// QueueClass is what an org has waiting and running of one class.
type QueueClass struct {
	Class Class
	// Waiting is all that wait for a host: Queued of them can be claimed, and
	// Unschedulable can't be run by any host. More says that counting ended
	// there.
	Waiting, Queued, Unschedulable int
	More                           bool
	OldestAt                       time.Time // when the first of those that wait was admitted
	Running                        int
	// HostsReady are the hosts that could run it and are here, HostsAll those
	// that are away or cordoned as well. FreeSlots is for how many more jobs
	// they have room, shared with other classes and orgs.
	HostsReady, HostsAll, FreeSlots int
}

// LimitKind is what a limit counts.
type LimitKind string

// The kinds of limit.
const (
	LimitOrg   LimitKind = "org"   // all jobs of the org
	LimitRepo  LimitKind = "repo"  // those of one repo; its name is "owner/name"
	LimitLabel LimitKind = "label" // those of the org with one label
)

// Limit bounds how many jobs may be queued for hosts, or on them, at once.
type Limit struct {
	ID    string
	OrgID string
	Kind  LimitKind
	Name  string // lower case; "" for the org
	Most  int
	Used  int
}

// Counts tells whether a limit counts a job of its org.
func (l Limit) Counts(j *Job) bool {
	switch l.Kind {
	case LimitOrg:
		return true
	case LimitRepo:
		return strings.EqualFold(l.Name, j.Repo)
	case LimitLabel:
		return slices.ContainsFunc(j.Labels, func(label string) bool { return strings.EqualFold(l.Name, label) })
	}
	return false
}

// String names what a limit counts: "label gpu".
func (l Limit) String() string { return strings.TrimSpace(string(l.Kind) + " " + l.Name) }

// Weight is a part of what all get, in percent of the usual.
type Weight struct {
	Repo    string // "owner/name", lower case; "" for the org itself
	Percent int
}
