package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// repoEntry is a repo of the table, or one that is about to be in it.
type repoEntry struct {
	id, orgID string
	inserted  bool
}

// Repo implements scheduler.Tx. Names are compared without case, as GitHub does.
func (t schedulerTx) Repo(ctx context.Context, name string) (id, orgID string, err error) {
	name = strings.ToLower(name)
	if _, known := t.books.repos[name]; !known {
		p := &pipeline{tx: t.tx}
		t.readRepos(p, []string{name})
		if err := p.run(ctx); err != nil {
			return "", "", fmt.Errorf("read repo: %w", err)
		}
	}
	if _, known := t.books.repos[name]; !known {
		owner, _, _ := strings.Cut(name, "/")
		orgID, err := t.orgOf(ctx, owner)
		if err != nil {
			return "", "", err
		}
		t.books.repos[name] = repoEntry{id: nimbus.NewID(nimbus.PrefixRepo, t.tx.now), orgID: orgID, inserted: true}
		t.books.touch()
	}
	r := t.books.repos[name]
	return r.id, r.orgID, nil
}

// orgOf is the org of a GitHub owner.
func (t schedulerTx) orgOf(ctx context.Context, owner string) (string, error) {
	orgID, err := t.tx.OrgOfOwner(ctx, owner)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nimbus.DefaultOrgID, nil
	case err != nil:
		return "", fmt.Errorf("find the owner's org: %w", err)
	}
	return orgID, nil
}

func (b *books) newRepos(now time.Time) (rows [][]any) {
	for _, name := range sortedKeys(b.repos) {
		if r := b.repos[name]; r.inserted {
			rows = append(rows, []any{r.id, r.orgID, name, micros(now)})
			b.repos[name] = repoEntry{id: r.id, orgID: r.orgID}
		}
	}
	return rows
}

// deliveryEntry is a webhook of the ledger.
type deliveryEntry struct {
	known    bool // to the ledger, or to this transaction
	now      nimbus.Delivery
	outcome  nimbus.DeliveryOutcome
	inserted bool
}

// InsertDelivery implements scheduler.Tx.
func (t schedulerTx) InsertDelivery(ctx context.Context, d nimbus.Delivery) (bool, error) {
	if t.books.deliveries[d.ID] == nil {
		p := &pipeline{tx: t.tx}
		t.readDeliveries(p, []string{d.ID})
		if err := p.run(ctx); err != nil {
			return false, err
		}
	}
	e := t.books.deliveries[d.ID]
	if e.known {
		return false, nil
	}
	*e = deliveryEntry{known: true, now: d, inserted: true}
	t.books.touch()
	return true, nil
}

// SetDeliveryOutcome implements scheduler.Tx.
func (t schedulerTx) SetDeliveryOutcome(_ context.Context, deliveryID string, o nimbus.DeliveryOutcome) error {
	if e := t.books.deliveries[deliveryID]; e != nil && e.inserted {
		e.outcome = o
	}
	return nil
}

func (b *books) newDeliveries() (rows [][]any) {
	for _, id := range sortedKeys(b.deliveries) {
		e := b.deliveries[id]
		if e.inserted {
			rows = append(rows, []any{id, e.now.Event, e.now.Action, e.now.BodySHA256, micros(e.now.ReceivedAt), string(e.outcome)})
			e.inserted = false
		}
	}
	return rows
}

// forgeEntry is what GitHub said last of a job.
type forgeEntry struct {
	rank    int64
	row     []any
	changed bool
}

// AdvanceForgeJob implements scheduler.Tx.
func (t schedulerTx) AdvanceForgeJob(ctx context.Context, ev *nimbus.ForgeEvent) (bool, error) {
	id := ev.Job.JobID
	if t.books.forgeJobs[id] == nil {
		p := &pipeline{tx: t.tx}
		t.readForgeJobs(p, []int64{id})
		if err := p.run(ctx); err != nil {
			return false, err
		}
	}
	e, rank := t.books.forgeJobs[id], int64(ev.Status.Rank())
	if rank <= e.rank {
		return false, nil
	}
	*e = forgeEntry{rank: rank, changed: true,
		row: []any{id, string(ev.Status), rank, ev.Conclusion, ev.RunnerName, t.nowMicros()}}
	t.books.touch()
	return true, nil
}

func (b *books) newForgeJobs() (rows [][]any) {
	for _, id := range slices.Sorted(maps.Keys(b.forgeJobs)) {
		if e := b.forgeJobs[id]; e.changed {
			rows = append(rows, e.row)
			e.changed = false
		}
	}
	return rows
}

// Purge implements scheduler.Tx.
func (t schedulerTx) Purge(ctx context.Context, before time.Time, most int) (int64, error) {
	d, err1 := t.tx.PurgeDeliveries(ctx, gen.PurgeDeliveriesParams{ReceivedAt: micros(before), Limit: int32(most)})
	f, err2 := t.tx.PurgeForgeJobs(ctx, gen.PurgeForgeJobsParams{UpdatedAt: micros(before), Limit: int32(most)})
	return d + f, errors.Join(err1, err2)
}
