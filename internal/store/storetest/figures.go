package storetest

import (
	"cmp"
	"context"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

// testFigures: what waits is counted by class and state with the age of the
// oldest, what is over is not, and hosts by whether they were heard of.
func testFigures(t *testing.T, b *books) {
	if err := b.Current(t.Context()); err != nil {
		t.Errorf("a fresh database lacks something: %v", err)
	}
	big := class
	big.CPUs = 8
	oldest := b.job()
	b.job()
	b.job(func(j *scheduler.JobRecord) { j.Class = big })
	over := b.job()
	var present []string // hosts
	b.update(func(ctx context.Context, tx scheduler.Tx) error {
		locked, err := tx.LockJob(ctx, oldest.ID)
		if err != nil {
			return err
		}
		if err := tx.MoveJob(ctx, locked, scheduler.Move{To: nimbus.StateQueued, Actor: "test"}); err != nil {
			return err
		}
		if over, err = tx.LockJob(ctx, over.ID); err != nil {
			return err
		}
		if err := tx.MoveJob(ctx, over, scheduler.Move{To: nimbus.StateFinished, Result: nimbus.ResultCancelled, Actor: "test"}); err != nil {
			return err
		}
		for _, seen := range []time.Duration{0, 0, -time.Hour} {
			h := nimbus.Host{ID: nimbus.NewID(nimbus.PrefixHost, tx.Now()), Name: "host", JoinedAt: tx.Now(), SeenAt: tx.Now().Add(seen)}
			if err := tx.InsertHost(ctx, h); err != nil {
				return err
			}
			if seen == 0 {
				present = append(present, h.ID)
			}
		}
		return nil
	})
	if err := b.OffsetClock(t.Context(), 10*time.Second); err != nil {
		t.Fatal(err)
	}
	got, err := b.Depths(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(got, func(a, b scheduler.Depth) int {
		return cmp.Or(cmp.Compare(a.Class.CPUs, b.Class.CPUs), cmp.Compare(a.State, b.State))
	})
	for i := range got {
		if age := got[i].Age; age < 10*time.Second || age > time.Hour {
			t.Errorf("the oldest of %+v waits %s", got[i], age)
		}
		got[i].Age = 0
	}
	want := []scheduler.Depth{
		{Class: class, State: nimbus.StatePending, Jobs: 1}, {Class: class, State: nimbus.StateQueued, Jobs: 1},
		{Class: big, State: nimbus.StatePending, Jobs: 1},
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("what waits, -want +got:\n%s", diff)
	}
	hosts, err := b.HostCounts(t.Context())
	if diff := gocmp.Diff(map[nimbus.HostState]int{nimbus.HostReady: 2, nimbus.HostAway: 1}, hosts); diff != "" || err != nil {
		t.Errorf("hosts, -want +got: %v\n%s", err, diff)
	}
	b.update(func(ctx context.Context, tx scheduler.Tx) error {
		free := map[string]*nimbus.Capacity{}
		for _, id := range present {
			free[id] = &nimbus.Capacity{Warm: []string{class.ID(), class.ID(), "cls_of_nobody"}}
		}
		return tx.TouchHosts(ctx, free)
	})
	warm, err := b.WarmCounts(t.Context())
	if diff := gocmp.Diff(map[nimbus.Class]int{class: 4}, warm); diff != "" || err != nil {
		t.Errorf("what waits for jobs, -want +got: %v\n%s", err, diff)
	}
}
