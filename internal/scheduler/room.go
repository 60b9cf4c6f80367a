package scheduler

import (
	"context"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// runningFresh is how old what is known of running jobs may be, where people
// ask when theirs will start.
const runningFresh = 2 * time.Second

// maxSlots is as many free places as are told of one class.
const maxSlots = 1000

// runningJobs remembers which jobs run, so that many who ask cost one read.
type runningJobs struct {
	mu   sync.Mutex
	at   time.Time // of the database
	jobs []RunningJob
}

func (c *runningJobs) get(ctx context.Context, r Reader) ([]RunningJob, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if age := r.Now().Sub(c.at); age >= 0 && age < runningFresh {
		return c.jobs, nil
	}
	jobs, err := r.RunningJobs(ctx, maxRunning)
	if err != nil {
		return nil, err
	}
	c.at, c.jobs = r.Now(), jobs
	return jobs, nil
}

// room is what hosts have for a class.
type room struct {
	ready, all int  // hosts that could run it
	free       int  // more jobs of it that would fit
	more       bool // run than were read, so that less may be free
	running    []RunningJob
	cordoned   int    // hosts that are there, and could run it but for that
	oneOfThem  string // its name
}

// roomFor looks at the hosts that could run a class. What is free is what the
// books say: a host's inventory without what it was given.
func (s *Service) roomFor(ctx context.Context, r Reader, class nimbus.Class) (room, error) {
	if err := s.fleet.refresh(ctx, r, fleetFresh); err != nil {
		return room{}, err
	}
	running, err := s.running.get(ctx, r)
	if err != nil {
		return room{}, err
	}
	var ids []string
	byHost := map[string][]string{}
	out := room{more: len(running) == maxRunning}
	for _, j := range running {
		byHost[j.HostID] = append(byHost[j.HostID], j.ClassID)
		ids = append(ids, j.ClassID)
		if j.ClassID == class.ID() {
			out.running = append(out.running, j)
		}
	}
	classes, err := s.fleet.classesByID(ctx, r, ids)
	if err != nil {
		return room{}, err
	}
	for _, h := range s.fleet.all() {
		if !h.Inventory.Serves(class) {
			continue
		}
		out.all++
		if r.Now().Sub(h.SeenAt) > nimbus.LeaseDuration {
			continue
		}
		if h.Cordoned {
			out.cordoned++
			out.oneOfThem = h.Name
			continue
		}
		out.ready++
		free := h.Inventory.Total()
		if free.Sandboxes == 0 { // an agent that doesn't tell
			free.Sandboxes = maxSlots
		}
		for _, id := range byHost[h.ID] {
			_, free, _ = free.Reserve(classes[id])
		}
		for out.free < maxSlots {
			_, left, ok := free.Reserve(class)
			if !ok {
				break
			}
			free = left
			out.free++
		}
	}
	return out, nil
}

// ends are when the running jobs may be expected to end. One that has lasted
// longer than usual is taken to last a while more.
func (r room) ends(now time.Time, takes time.Duration) []time.Time {
	out := make([]time.Time, len(r.running))
	for i, j := range r.running {
		left := takes
		if !j.AcceptedAt.IsZero() {
			left -= now.Sub(j.AcceptedAt)
		}
		out[i] = now.Add(max(left, takes/10))
	}
	return out
}

// classesByID are the classes of ids, which may repeat.
func (f *fleet) classesByID(ctx context.Context, r Reader, ids []string) (map[string]nimbus.Class, error) {
	out := map[string]nimbus.Class{}
	var distinct []string
	for _, id := range ids {
		if _, ok := out[id]; !ok {
			out[id] = nimbus.Class{}
			distinct = append(distinct, id)
		}
	}
	classes, err := f.classes(ctx, r, distinct)
	for _, c := range classes {
		out[c.ID()] = c
	}
	return out, err
}
