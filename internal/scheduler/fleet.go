package scheduler

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
)

const (
	// fleetFresh is how old a replica's knowledge of the hosts may be before a
	// claim or a placement reads what changed. It is read at once where a job
	// would be refused, or a host is not known.
	fleetFresh = time.Second
	// seenFresh is the same for when each host was seen, which is one short row
	// a host: those that talk to this replica are known without.
	seenFresh = 15 * time.Second
	// changeOverlap is read again each time: a transaction that is committed
	// late has an earlier time than what was read before.
	changeOverlap = 10 * time.Second
	// touchEvery is how often it is written that a host was seen. A host is away
	// after a lease's length, six times that.
	touchEvery = nimbus.HeartbeatInterval
)

// fleet is what a replica knows of the hosts without asking. The books hold the
// truth; what is decided from here is decided again, or harmless, when it was
// out of date.
type fleet struct {
	mu        sync.Mutex
	hosts     map[string]*HostRecord
	written   map[string]time.Time        // when a host was seen, as far as the books know
	told      map[string]*nimbus.Capacity // what the hosts that talk to this replica have free
	warm      map[string][]string         // class id -> hosts that have a sandbox of it ready
	serving   map[string]map[string]bool  // class id -> hosts that could run it
	changes   time.Time                   // of the database: all changes before are known
	readAt    time.Time                   // by this machine's clock
	seenRead  time.Time
	classByID map[string]nimbus.Class
}

func newFleet() *fleet {
	return &fleet{hosts: map[string]*HostRecord{}, written: map[string]time.Time{}, told: map[string]*nimbus.Capacity{}, warm: map[string][]string{}, serving: map[string]map[string]bool{},
		classByID: map[string]nimbus.Class{}}
}

// refresh reads what changed, if that was not done within age.
func (f *fleet) refresh(ctx context.Context, r Reader, age time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if now.Sub(f.readAt) >= age {
		changed, err := r.ChangedHosts(ctx, f.changes.Add(-changeOverlap))
		if err != nil {
			return fmt.Errorf("read which hosts changed: %w", err)
		}
		for _, h := range changed {
			if h.Removed {
				f.drop(h.ID)
				continue
			}
			f.put(h)
		}
		f.readAt = now
		f.changes = r.Now()
	}
	if age == 0 || now.Sub(f.seenRead) >= seenFresh {
		seen, err := r.SeenHosts(ctx)
		if err != nil {
			return fmt.Errorf("read when hosts were seen: %w", err)
		}
		f.see(seen)
		f.seenRead = now
	}
	return nil
}

// put takes a host as the books have it.
func (f *fleet) put(h *HostRecord) {
	before := f.hosts[h.ID]
	if before != nil && before.SeenAt.After(h.SeenAt) {
		h.SeenAt = before.SeenAt
	}
	f.hosts[h.ID] = h
	if before != nil {
		h.Free.Warm = before.Free.Warm
	} else {
		warm := h.Free.Warm
		h.Free.Warm = nil
		f.setWarm(h.ID, warm)
	}
	// Whatever of it decides which classes can run: to ask again costs little.
	if before == nil || !reflect.DeepEqual(before.Inventory, h.Inventory) {
		clear(f.serving)
	}
}

// add takes one host.
func (f *fleet) add(h *HostRecord) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.put(h)
}

// see takes when hosts were seen. One that the books have no more is gone.
func (f *fleet) see(seen map[string]Sighting) {
	for id, h := range f.hosts {
		last, ok := seen[id]
		if !ok {
			f.drop(id)
			continue
		}
		if f.told[id] == nil || last.At.After(h.SeenAt) { // it talks to another replica
			delete(f.told, id)
			f.setWarm(id, last.Warm)
		}
		if last.At.After(h.SeenAt) {
			h.SeenAt = last.At
		}
	}
}

// drop forgets a host.
func (f *fleet) drop(id string) {
	f.setWarm(id, nil)
	delete(f.hosts, id)
	delete(f.written, id)
	delete(f.told, id)
	clear(f.serving)
}

// tell notes what a host has free.
func (f *fleet) tell(hostID string, free nimbus.Capacity) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told[hostID] = &free
	f.setWarm(hostID, free.Warm)
}

// setWarm notes of which classes a host has sandboxes ready.
func (f *fleet) setWarm(hostID string, classIDs []string) {
	h := f.hosts[hostID]
	if h == nil || slices.Equal(h.Free.Warm, classIDs) {
		return
	}
	for _, id := range h.Free.Warm {
		f.warm[id] = slices.DeleteFunc(f.warm[id], func(other string) bool { return other == hostID })
		if len(f.warm[id]) == 0 {
			delete(f.warm, id)
		}
	}
	for _, id := range classIDs {
		if !slices.Contains(f.warm[id], hostID) {
			f.warm[id] = append(f.warm[id], hostID)
		}
	}
	h.Free.Warm = classIDs
}

// holders are the hosts that are here and have a sandbox of a class ready.
func (f *fleet) holders(classID string, now time.Time) (ids []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range f.warm[classID] {
		if h := f.hosts[id]; now.Sub(h.SeenAt) <= nimbus.LeaseDuration && !h.CoolUntil.After(now) && !h.Cordoned {
			ids = append(ids, id)
		}
	}
	return ids
}

// free is what hosts have free, nil where they told another replica.
func (f *fleet) free(hostIDs []string) map[string]*nimbus.Capacity {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make(map[string]*nimbus.Capacity, len(hostIDs))
	for _, id := range hostIDs {
		out[id] = f.told[id]
	}
	return out
}

// touch notes that a host was heard of at a time of the database, and tells
// whether the host is known and whether that has to be written.
func (f *fleet) touch(hostID string, at time.Time) (known, write bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := f.hosts[hostID]
	if h == nil {
		return false, false
	}
	if at.After(h.SeenAt) {
		h.SeenAt = at
	}
	if at.Sub(f.written[hostID]) < touchEvery {
		return true, false
	}
	f.written[hostID] = at
	return true, true
}

// cool keeps a host from offers until a time; the zero time ends that.
func (f *fleet) cool(hostID string, until time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if h := f.hosts[hostID]; h != nil {
		h.CoolUntil = until
	}
}

// all are copies of all hosts, by name.
func (f *fleet) all() []nimbus.Host {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]nimbus.Host, 0, len(f.hosts))
	for _, h := range f.hosts {
		out = append(out, h.Host)
	}
	slices.SortFunc(out, func(a, b nimbus.Host) int {
		if a.Name != b.Name {
			return strings.Compare(a.Name, b.Name)
		}
		return strings.Compare(a.ID, b.ID)
	})
	return out
}

// anyServes tells whether a host that counts could run a class.
func (f *fleet) anyServes(c nimbus.Class, counts func(nimbus.Host) bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for hostID := range f.able(c.ID(), c) {
		if counts(f.hosts[hostID].Host) {
			return true
		}
	}
	return false
}

// roomNow is for how many jobs of a class hosts that are here said to have room,
// counted up to most.
func (f *fleet) roomNow(c nimbus.Class, now time.Time, most int) (jobs int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id := range f.able(c.ID(), c) {
		h := f.hosts[id]
		if h.Cordoned || h.CoolUntil.After(now) || now.Sub(h.SeenAt) > nimbus.LeaseDuration {
			continue
		}
		free := h.Free
		if told := f.told[id]; told != nil {
			free = *told
		}
		for jobs < most {
			_, left, ok := free.Reserve(c)
			if !ok {
				break
			}
			free = left
			jobs++
		}
	}
	return jobs
}

// able are the hosts that could run a class at all, looked up once a class.
func (f *fleet) able(id string, c nimbus.Class) map[string]bool {
	able, known := f.serving[id]
	if known {
		return able
	}
	able = map[string]bool{}
	for _, h := range f.hosts {
		if h.Inventory.Serves(c) {
			able[h.ID] = true
		}
	}
	if len(f.serving) >= maxServing {
		clear(f.serving)
	}
	f.serving[id] = able
	return able
}

// takers are the polls that wait still and could take a job of the classes now,
// those that came first, and the ids of those classes. A claim looks at
// claimMost jobs of a class: more takers than that are of no use, unless some
// hosts have sandboxes ready and go before others. This is between a job and
// its host, so little is done for each of a thousand polls.
func (f *fleet) takers(polls []*poll, classes []nimbus.Class, now time.Time) (takers []*taker, ids []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	able, served := make([]map[string]bool, len(classes)), make([]int, len(classes))
	lacking, warm := len(classes), false
	for i, c := range classes {
		ids = append(ids, c.ID())
		able[i] = f.able(ids[i], c)
		warm = warm || len(f.warm[ids[i]]) > 0
	}
	for _, p := range polls {
		if lacking == 0 && !warm {
			break
		}
		h := f.hosts[p.hostID]
		if h == nil || h.Cordoned || h.CoolUntil.After(now) || p.answered() {
			continue
		}
		some := false
		for i, c := range classes {
			if able[i][p.hostID] && fits(c, p.free) {
				some = true
				if served[i]++; served[i] == claimMost {
					lacking--
				}
			}
		}
		if some {
			copied := *h
			takers = append(takers, &taker{poll: p, host: &copied})
		}
	}
	kept := ids[:0]
	for i, id := range ids {
		if served[i] > 0 {
			kept = append(kept, id)
		}
	}
	slices.Sort(kept)
	return takers, kept
}

// maxServing and maxClasses bound what is remembered of classes; past it the
// memory begins anew.
const (
	maxServing = 10_000
	maxClasses = 10_000
)

// classes are the classes of ids, which never change.
func (f *fleet) classes(ctx context.Context, r Reader, ids []string) ([]nimbus.Class, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var missing []string
	for _, id := range ids {
		if _, ok := f.classByID[id]; !ok {
			missing = append(missing, id)
		}
	}
	if len(missing) > 0 {
		if len(f.classByID) > maxClasses {
			clear(f.classByID)
			missing = ids
		}
		read, err := r.Classes(ctx, missing)
		if err != nil {
			return nil, fmt.Errorf("read classes: %w", err)
		}
		for _, c := range read {
			f.classByID[c.ID()] = c
		}
	}
	out := make([]nimbus.Class, 0, len(ids))
	for _, id := range ids {
		if c, ok := f.classByID[id]; ok {
			out = append(out, c)
		}
	}
	return out, nil
}
