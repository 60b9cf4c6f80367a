package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// Repo implements scheduler.Tx. Names are compared without case, as GitHub does.
func (t schedulerTx) Repo(ctx context.Context, name string) (id, orgID string, err error) {
	name = strings.ToLower(name)
	err = t.tx.EnsureRepo(ctx, gen.EnsureRepoParams{ID: nimbus.NewID(nimbus.PrefixRepo, t.tx.now),
		OrgID: nimbus.DefaultOrgID, Name: name, CreatedAt: t.nowMicros()})
	if err != nil {
		return "", "", fmt.Errorf("add repo: %w", err)
	}
	row, err := t.tx.RepoByName(ctx, name)
	return row.ID, row.OrgID, err
}

// InsertDelivery implements scheduler.Tx.
func (t schedulerTx) InsertDelivery(ctx context.Context, d nimbus.Delivery) (bool, error) {
	n, err := t.tx.InsertDelivery(ctx, gen.InsertDeliveryParams{ID: d.ID, Event: d.Event, Action: d.Action,
		BodySha256: d.BodySHA256, ReceivedAt: micros(d.ReceivedAt), Outcome: ""})
	return n > 0, err
}

// SetDeliveryOutcome implements scheduler.Tx.
func (t schedulerTx) SetDeliveryOutcome(ctx context.Context, deliveryID string, o nimbus.DeliveryOutcome) error {
	return t.tx.SetDeliveryOutcome(ctx, gen.SetDeliveryOutcomeParams{ID: deliveryID, Outcome: string(o)})
}

// AdvanceForgeJob implements scheduler.Tx.
func (t schedulerTx) AdvanceForgeJob(ctx context.Context, ev *nimbus.ForgeEvent) (bool, error) {
	n, err := t.tx.AdvanceForgeJob(ctx, gen.AdvanceForgeJobParams{GitHubJobID: ev.Job.JobID, Status: string(ev.Status),
		StatusRank: int64(ev.Status.Rank()), Conclusion: ev.Conclusion, RunnerName: ev.RunnerName, UpdatedAt: t.nowMicros()})
	return n > 0, err
}

// Purge implements scheduler.Tx.
func (t schedulerTx) Purge(ctx context.Context, before time.Time, most int) (int64, error) {
	d, err1 := t.tx.PurgeDeliveries(ctx, gen.PurgeDeliveriesParams{ReceivedAt: micros(before), Limit: int32(most)})
	f, err2 := t.tx.PurgeForgeJobs(ctx, gen.PurgeForgeJobsParams{UpdatedAt: micros(before), Limit: int32(most)})
	return d + f, errors.Join(err1, err2)
}
