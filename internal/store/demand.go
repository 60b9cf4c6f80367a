package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/demand"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

var (
	_ demand.Redeliveries = (*Store)(nil)
	_ demand.Repositories = (*Store)(nil)
)

// Cursor implements demand.Redeliveries.
func (s *Store) Cursor(ctx context.Context, appID int64) (demand.Cursor, error) {
	row, err := gen.New(s.reader).DeliveryCursor(ctx, appID)
	if errors.Is(err, sql.ErrNoRows) {
		return demand.Cursor{}, nil
	}
	return demand.Cursor{CheckedAt: fromMicros(row.CheckedAt), Page: row.Page, NewestAt: fromMicros(row.NewestAt)}, interpret(err)
}

// Failed implements demand.Redeliveries.
func (s *Store) Failed(ctx context.Context, appID int64, failed []nimbus.SentDelivery, after time.Duration, c demand.Cursor) error {
	return s.write(ctx, func(t *tx) error {
		for _, d := range failed {
			err := t.RememberRedelivery(ctx, gen.RememberRedeliveryParams{
				AppID: appID, Guid: d.GUID, DeliveryID: d.ID, SentAt: micros(d.SentAt), NextAt: micros(t.now.Add(after)),
			})
			if err != nil {
				return fmt.Errorf("remember webhook %s: %w", d.GUID, err)
			}
		}
		if err := t.ForgetProcessed(ctx, appID); err != nil {
			return fmt.Errorf("forget what was processed: %w", err)
		}
		return t.SaveDeliveryCursor(ctx, gen.SaveDeliveryCursorParams{
			AppID: appID, CheckedAt: micros(c.CheckedAt), Page: c.Page, NewestAt: micros(c.NewestAt),
		})
	})
}

// Missing implements demand.Redeliveries.
func (s *Store) Missing(ctx context.Context, appID int64, most int) (out []demand.Missing, err error) {
	err = s.write(ctx, func(t *tx) error {
		out = nil
		if err := t.ForgetProcessed(ctx, appID); err != nil {
			return fmt.Errorf("forget what was processed: %w", err)
		}
		rows, err := t.DueRedeliveries(ctx, gen.DueRedeliveriesParams{AppID: appID, NextAt: micros(t.now), Limit: int32(most)})
		for _, r := range rows {
			out = append(out, demand.Missing{GUID: r.Guid, ID: r.DeliveryID, SentAt: fromMicros(r.SentAt), Tries: int(r.Tries)})
		}
		return err
	})
	return out, err
}

// PutOff implements demand.Redeliveries.
func (s *Store) PutOff(ctx context.Context, appID int64, guid string, tries int, wait time.Duration) error {
	return s.write(ctx, func(t *tx) error {
		return t.PutOffRedelivery(ctx, gen.PutOffRedeliveryParams{AppID: appID, Guid: guid, Tries: int64(tries), NextAt: micros(t.now.Add(wait))})
	})
}

// Forget implements demand.Redeliveries.
func (s *Store) Forget(ctx context.Context, appID int64, guid string) error {
	return s.write(ctx, func(t *tx) error {
		return t.ForgetRedelivery(ctx, gen.ForgetRedeliveryParams{AppID: appID, Guid: guid})
	})
}

// SeenRepositories implements demand.Repositories.
func (s *Store) SeenRepositories(ctx context.Context, within time.Duration, most int) (out []nimbus.ForgeRepo, err error) {
	err = s.read(ctx, func(t *tx) error {
		out = nil
		since := nimbus.FirstID(nimbus.PrefixJob, t.now.Add(-within))
		rows, err := t.SeenRepositories(ctx, gen.SeenRepositoriesParams{ID: since, Limit: int32(most)})
		if err != nil {
			return err
		}
		for _, row := range rows {
			var j nimbus.GitHubJob
			if err := json.Unmarshal([]byte(row), &j); err != nil {
				return fmt.Errorf("decode where a job is from: %w", err)
			}
			out = append(out, nimbus.ForgeRepo{InstallationID: j.InstallationID, Owner: j.Owner, Name: j.Repo})
		}
		return nil
	})
	return out, err
}
