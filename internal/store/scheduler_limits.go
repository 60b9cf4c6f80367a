package store

import (
	"context"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// Limits implements scheduler.Tx.
func (t schedulerTx) Limits(ctx context.Context, orgIDs []string) ([]scheduler.Limit, error) {
	var missing []string
	for _, id := range orgIDs {
		if _, known := t.books.ahead.limits[id]; !known {
			missing = append(missing, id)
		}
	}
	p := &pipeline{tx: t.tx}
	t.readLimits(p, missing)
	if err := p.run(ctx); err != nil {
		return nil, err
	}
	var limits []scheduler.Limit
	for _, id := range orgIDs {
		for _, l := range t.books.ahead.limits[id] {
			l.Used += t.books.limitUses[l.ID]
			limits = append(limits, l)
		}
	}
	return limits, nil
}

// readLimits reads the limits of orgs.
func (t schedulerTx) readLimits(p *pipeline, orgIDs []string) {
	if len(orgIDs) == 0 {
		return
	}
	for _, id := range orgIDs {
		t.books.ahead.limits[id] = nil
	}
	const text = "SELECT id, org_id, kind, name, most, used FROM limits WHERE "
	p.query("read limits", text+p.tx.dialect.in("org_id", 1)+" ORDER BY id", func(row scanner) error {
		var l scheduler.Limit
		if err := row.Scan(&l.ID, &l.OrgID, &l.Kind, &l.Name, &l.Most, &l.Used); err != nil {
			return err
		}
		t.books.ahead.limits[l.OrgID] = append(t.books.ahead.limits[l.OrgID], l)
		return nil
	}, p.list(orgIDs))
}

// FullLimits implements scheduler.Reader.
func (t schedulerTx) FullLimits(ctx context.Context, afterOrg string, most int) ([]string, error) {
	return t.tx.FullLimits(ctx, gen.FullLimitsParams{OrgID: afterOrg, Limit: int32(most)})
}

// UseLimit implements scheduler.Tx.
func (t schedulerTx) UseLimit(_ context.Context, id string, by int) error {
	t.books.limitUses[id] += by
	t.books.touch()
	return nil
}

// uses are by how much limits are used more, and by how much less.
func (b *books) uses() (more, less [][]any) {
	for _, id := range sortedKeys(b.limitUses) {
		switch by := b.limitUses[id]; {
		case by > 0:
			more = append(more, []any{id, int64(by)})
		case by < 0:
			less = append(less, []any{id, int64(by)})
		}
	}
	clear(b.limitUses)
	return more, less
}

// countLimits writes how limits are used, which is the last that a transaction
// does: who holds one of these rows asks for nothing else any more. One that is
// passed, because it was changed meanwhile, makes the transaction run again; one
// that was dropped has nothing to be given back to.
func (t schedulerTx) countLimits(w *pipeline) {
	more, less := t.books.uses()
	w.exact("count against limits", t.tx.flushes.takeLimits, more)
	w.write("count against limits", t.tx.flushes.giveLimits, less)
}

// SetLimit implements scheduler.Tx. One that exists keeps its id, and so its
// count.
func (t schedulerTx) SetLimit(ctx context.Context, l scheduler.Limit) error {
	t.books.ahead = newAhead()
	return t.tx.SetLimit(ctx, gen.SetLimitParams{ID: nimbus.NewID(nimbus.PrefixLimit, t.tx.now), OrgID: l.OrgID, Kind: string(l.Kind),
		Name: l.Name, Most: int64(l.Most)})
}

// DropLimit implements scheduler.Tx.
func (t schedulerTx) DropLimit(ctx context.Context, orgID string, kind scheduler.LimitKind, name string) error {
	t.books.ahead = newAhead()
	n, err := t.tx.DropLimit(ctx, gen.DropLimitParams{OrgID: orgID, Kind: string(kind), Name: name})
	if err == nil && n == 0 {
		return nimbus.Errorf(nimbus.CodeNotFound, "there is no such limit").WithHint("`nimbus limits` lists them")
	}
	return err
}

// LimitsOf implements scheduler.Reader.
func (t schedulerTx) LimitsOf(ctx context.Context, orgID string) ([]scheduler.Limit, error) {
	rows, err := t.tx.LimitsOf(ctx, orgID)
	limits := make([]scheduler.Limit, len(rows))
	for i, r := range rows {
		limits[i] = scheduler.Limit{ID: r.ID, OrgID: r.OrgID, Kind: scheduler.LimitKind(r.Kind), Name: r.Name, Most: int(r.Most), Used: int(r.Used)}
	}
	return limits, err
}
