package storetest

import (
	"context"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

// testBacklog: what a transaction took from the backlog, it does not find there
// again, although nothing of that is written yet; nor are there fewer for it.
func testBacklog(t *testing.T, b *books) {
	var ids []string
	for range 6 {
		ids = append(ids, b.job().ID)
	}
	slices.Sort(ids) // those of one millisecond come in any order
	w := scheduler.Waiting{Flow: scheduler.Flow{OrgID: nimbus.DefaultOrgID}}
	b.update(func(ctx context.Context, tx scheduler.Tx) error {
		next := func(behind string, n int) (got []string) {
			jobs, err := tx.NextPending(ctx, class.ID(), []scheduler.Behind{{Waiting: w, JobID: behind}}, n)
			if err != nil {
				t.Fatal(err)
			}
			for _, j := range jobs {
				got = append(got, j.ID)
			}
			return got
		}
		if diff := cmp.Diff(ids[:2], next("", 2)); diff != "" {
			t.Errorf("the first two (-want +got):\n%s", diff)
		}
		for _, id := range ids[:2] {
			j, err := tx.LockJob(ctx, id)
			if err != nil {
				return err
			}
			if err := tx.MoveJob(ctx, j, scheduler.Move{To: nimbus.StateQueued, Actor: "test"}); err != nil {
				return err
			}
		}
		// One that comes in this transaction is a newcomer, and not of the backlog.
		fresh := &scheduler.JobRecord{Job: nimbus.Job{ID: nimbus.NewID(nimbus.PrefixJob, tx.Now()), OrgID: nimbus.DefaultOrgID,
			Source: nimbus.SourceNative, Name: "fresh", Class: class, MaxAttempts: 3}}
		if err := tx.InsertJob(ctx, fresh, "test"); err != nil {
			return err
		}
		if diff := cmp.Diff(ids[2:5], next("", 3)); diff != "" {
			t.Errorf("after two were taken (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(ids[4:], next(ids[3], 5)); diff != "" {
			t.Errorf("behind the fourth (-want +got):\n%s", diff)
		}
		return nil
	})
}
