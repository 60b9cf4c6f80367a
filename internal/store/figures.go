package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

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

// ClosedCounts tells how many of the hosts that are there ask for no jobs, by
// what they have too little of.
func (s *Store) ClosedCounts(ctx context.Context) (map[nimbus.Pressure]int, error) {
	counts := map[nimbus.Pressure]int{}
	err := s.read(ctx, func(t *tx) error {
		clear(counts)
		rows, err := t.ClosedHosts(ctx, micros(t.now.Add(-nimbus.LeaseDuration)))
		for _, r := range rows {
			counts[nimbus.Pressure(r.Closed)] = int(r.Hosts)
		}
		return err
	})
	return counts, err
}

// warmClasses bounds the classes that are told of: hosts say what they have.
const warmClasses = 256

// WarmCounts tells how many sandboxes of each class wait for a job, on hosts
// that are there.
func (s *Store) WarmCounts(ctx context.Context) (map[nimbus.Class]int, error) {
	counts := map[nimbus.Class]int{}
	err := s.read(ctx, func(t *tx) error {
		clear(counts)
		hosts, err := t.WarmHosts(ctx, micros(t.now.Add(-nimbus.LeaseDuration)))
		if err != nil {
			return fmt.Errorf("count what is warm: %w", err)
		}
		ids := map[string]int{}
		for _, warm := range hosts {
			for _, id := range strings.Fields(warm) {
				if _, known := ids[id]; known || len(ids) < warmClasses {
					ids[id]++
				}
			}
		}
		for id, n := range ids {
			spec, err := t.ClassSpec(ctx, id)
			if errors.Is(err, sql.ErrNoRows) {
				continue // no job of ours is of it
			}
			if err != nil {
				return fmt.Errorf("read a class: %w", err)
			}
			var class nimbus.Class
			if err := json.Unmarshal([]byte(spec), &class); err != nil {
				return fmt.Errorf("read a class: %w", err)
			}
			counts[class] += n
		}
		return nil
	})
	return counts, err
}
