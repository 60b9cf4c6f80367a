package nimbus

import "time"

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
