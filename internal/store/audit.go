package store

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// audit tells the ledger of something, in the transaction of its effect: it
// lies in the outbox until the ledger fetches it.
func (t *tx) audit(ctx context.Context, e nimbus.AuditEvent) error {
	if e.Detail == nil {
		e.Detail = map[string]string{}
	}
	detail, err := json.Marshal(e.Detail)
	if err != nil {
		return fmt.Errorf("encode audit event: %w", err)
	}
	err = t.InsertAudit(ctx, gen.InsertAuditParams{
		ID: nimbus.NewID(nimbus.PrefixAudit, t.now), At: micros(t.now), OrgID: e.OrgID, Actor: plain(e.Actor), Action: plain(e.Action),
		Target: plain(e.Target), Outcome: string(e.Outcome), Detail: string(detail), Count: max(1, e.Count),
	})
	if err != nil {
		return fmt.Errorf("write audit event: %w", err)
	}
	return nil
}

// plain is text as both engines can hold it.
func plain(s string) string {
	return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", "�"), "�")
}

// Audit implements scheduler.Tx.
func (t schedulerTx) Audit(ctx context.Context, e nimbus.AuditEvent) error { return t.tx.audit(ctx, e) }

// RecordAudit implements audit.Store.
func (s *Store) RecordAudit(ctx context.Context, events []nimbus.AuditEvent) error {
	return s.write(ctx, func(t *tx) error {
		for _, e := range events {
			if err := t.audit(ctx, e); err != nil {
				return err
			}
		}
		return nil
	})
}
