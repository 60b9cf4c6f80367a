package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/audit"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

var _ audit.Store = (*Store)(nil)

// ChainAudit implements audit.Store. A leader whose term is over changes
// nothing; and of two that both believe to lead, the second waits for the first.
func (s *Store) ChainAudit(ctx context.Context, most int, link audit.Link) (n int, err error) {
	err = s.write(ctx, func(t *tx) error {
		if err := t.lockChains(ctx); err != nil {
			return fmt.Errorf("lock the chains: %w", err)
		}
		rows, err := t.AuditOutbox(ctx, int32(most))
		if err != nil {
			return fmt.Errorf("read the outbox: %w", err)
		}
		if n = len(rows); n == 0 {
			return nil
		}
		events, heads, err := t.eventsAndHeads(ctx, rows)
		if err != nil {
			return err
		}
		entries, checkpoints := link(t.now, heads, events)
		return t.lengthen(ctx, entries, checkpoints)
	})
	return n, err
}

// lockChains makes others wait who would lengthen a chain, and lets this one
// see what they did.
func (t *tx) lockChains(ctx context.Context) error {
	var orgID string
	return t.db.QueryRowContext(ctx, "SELECT org_id FROM audit_heads WHERE org_id = ''"+t.dialect.forUpdate()).Scan(&orgID)
}

func (t *tx) eventsAndHeads(ctx context.Context, rows []gen.AuditOutbox) ([]nimbus.AuditEntry, map[string]audit.Head, error) {
	events, heads := make([]nimbus.AuditEntry, len(rows)), map[string]audit.Head{}
	for i, r := range rows {
		events[i] = nimbus.AuditEntry{ID: r.ID, At: fromMicros(r.At), AuditEvent: nimbus.AuditEvent{OrgID: r.OrgID, Actor: r.Actor, Action: r.Action,
			Target: r.Target, Outcome: nimbus.AuditOutcome(r.Outcome), Count: r.Count}}
		if err := json.Unmarshal([]byte(r.Detail), &events[i].Detail); err != nil {
			return nil, nil, fmt.Errorf("read audit event %s: %w", r.ID, err)
		}
		if _, known := heads[r.OrgID]; known {
			continue
		}
		row, err := t.AuditHead(ctx, r.OrgID)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return nil, nil, fmt.Errorf("read the end of a chain: %w", err)
		}
		head := audit.Head{Seq: row.Seq}
		if err == nil {
			if err := head.Hash.UnmarshalText([]byte(row.Hash)); err != nil {
				return nil, nil, fmt.Errorf("read the end of a chain: %w", err)
			}
		}
		heads[r.OrgID] = head
	}
	return events, heads, nil
}

// lengthen adds entries to their chains, and takes them out of the outbox.
func (t *tx) lengthen(ctx context.Context, entries []nimbus.AuditEntry, checkpoints []nimbus.AuditCheckpoint) error {
	for _, e := range entries {
		detail, err := json.Marshal(e.Detail)
		if err != nil {
			return fmt.Errorf("encode audit entry: %w", err)
		}
		err = t.InsertAuditEntry(ctx, gen.InsertAuditEntryParams{OrgID: e.OrgID, Seq: e.Seq, ID: e.ID, At: micros(e.At), Actor: e.Actor, Action: e.Action,
			Target: e.Target, Outcome: string(e.Outcome), Detail: string(detail), Count: e.Count, PrevHash: e.Prev.String(), Hash: e.Hash.String()})
		if err != nil {
			return fmt.Errorf("add entry %d to a chain: %w", e.Seq, err)
		}
		if err := t.DeleteAuditOutbox(ctx, e.ID); err != nil {
			return fmt.Errorf("take an event out of the outbox: %w", err)
		}
	}
	for _, c := range checkpoints {
		err := t.InsertAuditCheckpoint(ctx, gen.InsertAuditCheckpointParams{OrgID: c.OrgID, Seq: c.Seq, Hash: c.Hash.String(), At: micros(c.At), Signature: c.Signature, PrevSeq: c.Prev})
		if err != nil {
			return fmt.Errorf("add a checkpoint: %w", err)
		}
		if err := t.SetAuditHead(ctx, gen.SetAuditHeadParams{OrgID: c.OrgID, Seq: c.Seq, Hash: c.Hash.String()}); err != nil {
			return fmt.Errorf("move the end of a chain: %w", err)
		}
	}
	return nil
}

// AuditEntries implements audit.Store.
func (s *Store) AuditEntries(ctx context.Context, orgID string, f nimbus.AuditFilter, after int64, most int) (entries []nimbus.AuditEntry, err error) {
	var c condition
	c.and("org_id = ?", orgID)
	order := " ORDER BY seq"
	if f.OldestFirst {
		c.and("seq > ?", after)
	} else {
		if order = " ORDER BY seq DESC"; after == 0 {
			after = math.MaxInt64
		}
		c.and("seq < ?", after)
	}
	for column, value := range map[string]string{"actor": f.Actor, "action": f.Action, "target": f.Target} {
		if value != "" {
			c.and(column+" = ?", plain(value))
		}
	}
	if !f.Since.IsZero() {
		c.and("at >= ?", micros(f.Since))
	}
	if !f.Until.IsZero() {
		c.and("at < ?", micros(f.Until))
	}
	c.args = append(c.args, most)
	text := fmt.Sprintf("SELECT org_id, seq, id, at, actor, action, target, outcome, detail, count, prev_hash, hash FROM audit_ledger WHERE TRUE%s%s LIMIT $%d",
		c.text.String(), order, len(c.args))
	err = s.read(ctx, func(t *tx) error {
		rows, err := t.db.QueryContext(ctx, text, c.args...)
		entries, err = scanAll(rows, err, scanAuditEntry)
		return err
	})
	return entries, err
}

func scanAuditEntry(r scanner, e *nimbus.AuditEntry) error {
	var at int64
	var detail, prev, hash string
	err := r.Scan(&e.OrgID, &e.Seq, &e.ID, &at, &e.Actor, &e.Action, &e.Target, &e.Outcome, &detail, &e.Count, &prev, &hash)
	if err != nil {
		return err
	}
	e.At = fromMicros(at)
	// What can't be read is shown as it can be: who verifies finds it.
	_ = json.Unmarshal([]byte(detail), &e.Detail)
	_, _ = e.Prev.UnmarshalText([]byte(prev)), e.Hash.UnmarshalText([]byte(hash))
	return nil
}

// AuditCheckpoints implements audit.Store.
func (s *Store) AuditCheckpoints(ctx context.Context, orgID string, after int64, most int) (checkpoints []nimbus.AuditCheckpoint, err error) {
	err = s.read(ctx, func(t *tx) error {
		rows, err := t.AuditCheckpoints(ctx, gen.AuditCheckpointsParams{OrgID: orgID, Seq: after, Limit: int32(most)})
		checkpoints = make([]nimbus.AuditCheckpoint, len(rows))
		for i, r := range rows {
			checkpoints[i] = nimbus.AuditCheckpoint{OrgID: r.OrgID, Seq: r.Seq, Prev: r.PrevSeq, At: fromMicros(r.At), Signature: r.Signature}
			_ = checkpoints[i].Hash.UnmarshalText([]byte(r.Hash)) // as above
		}
		return err
	})
	return checkpoints, err
}
