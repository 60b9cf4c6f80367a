package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
	"github.com/nimbus-ci/nimbus/internal/traces"
)

var _ traces.Store = (*Store)(nil)

// AppendTelemetry implements traces.Store.
func (s *Store) AppendTelemetry(ctx context.Context, key nimbus.LogKey, batches []nimbus.TelemetryBatch, most traces.Limits) (added traces.Added, err error) {
	err = s.write(ctx, func(t *tx) error {
		job, err := t.JobOfAttempt(ctx, gen.JobOfAttemptParams{ID: key.AttemptID, OrgID: key.OrgID})
		if err != nil {
			return fmt.Errorf("find the attempt: %w", err)
		}
		// Its row is the org's lock: two that append at once count each other.
		if _, err := t.AddTelemetryBytes(ctx, gen.AddTelemetryBytesParams{OrgID: key.OrgID, Bytes: 0}); err != nil {
			return fmt.Errorf("count telemetry: %w", err)
		}
		has, err := t.TelemetryOfAttempt(ctx, gen.TelemetryOfAttemptParams{OrgID: key.OrgID, JobID: job, AttemptID: key.AttemptID})
		if err != nil {
			return fmt.Errorf("look what there is: %w", err)
		}
		added = traces.Added{JobID: job, Before: has.LastSeq, Acked: has.LastSeq}
		size, rows := int64(0), int64(0)
		for _, b := range batches {
			if b.Seq <= added.Acked {
				continue
			}
			err := t.InsertTelemetry(ctx, gen.InsertTelemetryParams{OrgID: key.OrgID, JobID: job, AttemptID: key.AttemptID, Seq: b.Seq, Signal: string(b.Signal),
				Items: int64(b.Items), StoredAt: micros(t.now), Bytes: int64(len(b.Data)), Data: b.Data})
			if err != nil {
				return fmt.Errorf("store telemetry: %w", err)
			}
			added.Acked, size, rows = b.Seq, size+int64(len(b.Data)), rows+1
		}
		if size == 0 {
			return nil
		}
		if has.Bytes+size > most.Attempt {
			return nimbus.Errorf(nimbus.CodeTooLarge, "the attempt sent more than %d MiB of telemetry, packed: more is not kept", most.Attempt>>20)
		}
		if has.Batches+rows > most.Batches {
			return nimbus.Errorf(nimbus.CodeTooLarge, "the attempt sent more than %d requests with telemetry: more is not kept", most.Batches)
		}
		total, err := t.AddTelemetryBytes(ctx, gen.AddTelemetryBytesParams{OrgID: key.OrgID, Bytes: size})
		if err != nil {
			return fmt.Errorf("count telemetry: %w", err)
		}
		if total > most.Org {
			return nimbus.Errorf(nimbus.CodeTooLarge, "the org has %d MiB of telemetry, packed: more is not kept until some is old enough to go", most.Org>>20)
		}
		return nil
	})
	return added, err
}

// TelemetryBatches implements traces.Store.
func (s *Store) TelemetryBatches(ctx context.Context, orgID, jobID string, signal nimbus.Signal, after traces.Position, most int) (found []traces.Stored, err error) {
	err = s.read(ctx, func(t *tx) error {
		found = nil
		rows, err := t.TelemetryBatches(ctx, gen.TelemetryBatchesParams{OrgID: orgID, JobID: jobID, Signal: string(signal), AttemptID: after.AttemptID, Seq: after.Seq, Limit: int32(most)})
		for _, r := range rows {
			found = append(found, traces.Stored{Position: traces.Position{AttemptID: r.AttemptID, Seq: r.Seq}, Data: r.Data})
		}
		return err
	})
	return found, err
}

// CountTelemetry implements traces.Store.
func (s *Store) CountTelemetry(ctx context.Context, orgID, jobID string) (counts map[nimbus.Signal]int64, err error) {
	err = s.read(ctx, func(t *tx) error {
		rows, err := t.CountTelemetry(ctx, gen.CountTelemetryParams{OrgID: orgID, JobID: jobID})
		counts = make(map[nimbus.Signal]int64, len(rows))
		for _, r := range rows {
			counts[nimbus.Signal(r.Signal)] = r.Items
		}
		return err
	})
	return counts, err
}

// retentionsAtOnce is how many orgs are looked at by one query.
const retentionsAtOnce = 200

// ForgetTelemetry implements traces.Store.
func (s *Store) ForgetTelemetry(ctx context.Context, olderThan time.Duration) (n int, err error) {
	old := func(t *tx, before int64) ([]gen.OldTelemetryRow, error) {
		return t.OldTelemetry(ctx, gen.OldTelemetryParams{StoredAt: before, Limit: sweptAtOnce})
	}
	if n, err = s.forgetTelemetry(ctx, olderThan, old); err != nil || n > 0 {
		return n, err
	}
	for after := ""; ; {
		orgs, err := gen.New(s.reader).TelemetryRetentions(ctx, gen.TelemetryRetentionsParams{OrgID: after, Limit: retentionsAtOnce})
		if err != nil || len(orgs) == 0 {
			return n, interpret(err)
		}
		for _, o := range orgs {
			after = o.OrgID
			keep := time.Duration(min(o.Days, maxRetentionDays)) * 24 * time.Hour
			if keep >= olderThan {
				continue
			}
			gone, err := s.forgetOrgTelemetry(ctx, o.OrgID, keep)
			if n += gone; err != nil {
				return n, err
			}
		}
	}
}

// maxRetentionDays is as many as a duration holds, and more than anybody means.
const maxRetentionDays = 100 * 365

// forgetOrgTelemetry removes all of an org that is older.
func (s *Store) forgetOrgTelemetry(ctx context.Context, orgID string, olderThan time.Duration) (total int, err error) {
	old := func(t *tx, before int64) (rows []gen.OldTelemetryRow, err error) {
		found, err := t.OldTelemetryOfOrg(ctx, gen.OldTelemetryOfOrgParams{OrgID: orgID, StoredAt: before, Limit: sweptAtOnce})
		for _, b := range found {
			rows = append(rows, gen.OldTelemetryRow(b))
		}
		return rows, err
	}
	for {
		n, err := s.forgetTelemetry(ctx, olderThan, old)
		if total += n; err != nil || n == 0 {
			return total, err
		}
	}
}

// forgetTelemetry removes some of those batches that are older.
func (s *Store) forgetTelemetry(ctx context.Context, olderThan time.Duration, older func(*tx, int64) ([]gen.OldTelemetryRow, error)) (n int, err error) {
	err = s.write(ctx, func(t *tx) error {
		n = 0
		old, err := older(t, micros(t.now.Add(-olderThan)))
		if err != nil {
			return fmt.Errorf("look for old telemetry: %w", err)
		}
		freed := map[string]int64{}
		for _, b := range old {
			gone, err := t.DeleteTelemetry(ctx, gen.DeleteTelemetryParams{OrgID: b.OrgID, JobID: b.JobID, AttemptID: b.AttemptID, Seq: b.Seq})
			if err != nil {
				return fmt.Errorf("remove old telemetry: %w", err)
			}
			freed[b.OrgID] += gone * b.Bytes
			n += int(gone)
		}
		for org, bytes := range freed {
			if _, err := t.AddTelemetryBytes(ctx, gen.AddTelemetryBytesParams{OrgID: org, Bytes: -bytes}); err != nil {
				return fmt.Errorf("count telemetry: %w", err)
			}
		}
		return nil
	})
	return n, err
}

// OrgTelemetry implements traces.Store.
func (s *Store) OrgTelemetry(ctx context.Context, orgID string) (off bool, bytes int64, err error) {
	row, err := gen.New(s.reader).OrgTelemetry(ctx, orgID)
	if errors.Is(err, sql.ErrNoRows) {
		return false, 0, nil
	}
	return row.Off, row.Bytes, interpret(err)
}

// SetOrgTelemetry implements traces.Store.
func (s *Store) SetOrgTelemetry(ctx context.Context, orgID string, off bool, e nimbus.AuditEvent) error {
	return s.write(ctx, func(t *tx) error {
		if err := t.SetOrgTelemetry(ctx, gen.SetOrgTelemetryParams{OrgID: orgID, Off: off}); err != nil {
			return fmt.Errorf("set telemetry: %w", err)
		}
		return t.audit(ctx, e)
	})
}
