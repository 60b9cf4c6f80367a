package store

import (
	"context"

	"github.com/nimbus-ci/nimbus"
)

// PendingAudit is what waits in the audit outbox, for tests.
func (s *Store) PendingAudit(ctx context.Context) (events []nimbus.AuditEvent, err error) {
	rows, err := s.reader.QueryContext(ctx, "SELECT org_id, actor, action, target, outcome FROM audit_outbox")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var e nimbus.AuditEvent
		if err := rows.Scan(&e.OrgID, &e.Actor, &e.Action, &e.Target, &e.Outcome); err != nil {
			return nil, err
		}
		events = append(events, e)
	}
	return events, rows.Err()
}

// Revoke tells replicas to forget subjects.
func (s *Store) Revoke(ctx context.Context, subjects ...string) error {
	return s.write(ctx, func(t *tx) error { return t.revoke(ctx, subjects...) })
}
