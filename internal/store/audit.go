package store

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// audit tells the ledger of something, in the transaction of its effect.
func (t *tx) audit(ctx context.Context, e nimbus.AuditEvent) error {
	detail, err := json.Marshal(e.Detail)
	if err != nil {
		return fmt.Errorf("encode audit event: %w", err)
	}
	err = t.InsertAudit(ctx, gen.InsertAuditParams{
		ID: nimbus.NewID(nimbus.PrefixAudit, t.now), At: micros(t.now), OrgID: e.OrgID, Actor: e.Actor, Action: e.Action,
		Target: e.Target, Outcome: string(e.Outcome), Detail: string(detail), Count: max(1, e.Count),
	})
	if err != nil {
		return fmt.Errorf("write audit event: %w", err)
	}
	return nil
}

// Audit implements scheduler.Tx.
func (t schedulerTx) Audit(ctx context.Context, e nimbus.AuditEvent) error { return t.tx.audit(ctx, e) }
