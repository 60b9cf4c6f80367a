package store

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// Depths tells how many jobs of each class wait and since when the oldest one
// does. It counts the small tables of what waits, never the history.
func (s *Store) Depths(ctx context.Context) ([]scheduler.Depth, error) {
	var depths []scheduler.Depth
	err := s.read(ctx, func(t *tx) error {
		rows, err := t.WaitingDepths(ctx)
		if err != nil {
			return fmt.Errorf("count what waits: %w", err)
		}
		depths = make([]scheduler.Depth, len(rows))
		for i, r := range rows {
			depths[i] = scheduler.Depth{State: nimbus.State(r.State), Jobs: int(r.Jobs)}
			if err := json.Unmarshal([]byte(r.Spec), &depths[i].Class); err != nil {
				return fmt.Errorf("read a class: %w", err)
			}
			if since, ok := nimbus.IDTime(nimbus.PrefixJob, r.Oldest); ok {
				depths[i].Age = t.now.Sub(since)
			}
		}
		return nil
	})
	return depths, err
}

// HostCounts tells how many hosts are in each state.
func (s *Store) HostCounts(ctx context.Context) (map[nimbus.HostState]int, error) {
	var row gen.CountHostsRow
	err := s.read(ctx, func(t *tx) (err error) {
		row, err = t.CountHosts(ctx, micros(t.now.Add(-nimbus.LeaseDuration)))
		return err
	})
	return map[nimbus.HostState]int{nimbus.HostReady: int(row.Hosts - row.Away), nimbus.HostAway: int(row.Away)}, err
}
