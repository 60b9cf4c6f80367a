package scheduler

import (
	"context"
	"slices"
	"strings"

	"github.com/nimbus-ci/nimbus"
)

// maxDepth is how many waiting jobs of an org and class are counted.
const maxDepth = 10_000

// Queue tells what an org has waiting and running, by class: those with most
// that waits first.
func (s *Service) Queue(ctx context.Context, orgID string) ([]nimbus.QueueClass, error) {
	var out []nimbus.QueueClass
	err := s.store.View(ctx, func(r Reader) error {
		out = nil
		running, err := s.running.get(ctx, r)
		if err != nil {
			return err
		}
		runs := map[string]int{}
		var ids []string
		for _, j := range running {
			if j.OrgID == orgID {
				runs[j.ClassID]++
				ids = append(ids, j.ClassID)
			}
		}
		classes, err := s.fleet.classesByID(ctx, r, ids)
		if err != nil {
			return err
		}
		waiting, err := r.WaitingClasses(ctx)
		if err != nil {
			return err
		}
		for _, c := range waiting {
			classes[c.ID()] = c
		}
		for id, class := range classes {
			d, err := r.OrgDepth(ctx, orgID, id, maxDepth)
			if err != nil {
				return err
			}
			oldest, _ := nimbus.IDTime(nimbus.PrefixJob, d.Oldest) // zero where nobody waits
			q := nimbus.QueueClass{Class: class, Waiting: d.Queued + d.Pending + d.Stuck, Queued: d.Queued, Unschedulable: d.Stuck, More: d.More,
				OldestAt: oldest, Running: runs[id]}
			if q.Waiting+q.Running == 0 {
				continue // another org's
			}
			free, err := s.roomFor(ctx, r, class)
			if err != nil {
				return err
			}
			q.HostsReady, q.HostsAll, q.FreeSlots = free.ready, free.all, free.free
			out = append(out, q)
		}
		return nil
	})
	slices.SortFunc(out, func(a, b nimbus.QueueClass) int {
		if a.Waiting != b.Waiting {
			return b.Waiting - a.Waiting
		}
		return strings.Compare(a.Class.String(), b.Class.String())
	})
	return out, err
}
