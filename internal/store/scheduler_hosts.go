package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// Host implements scheduler.Reader.
func (t schedulerTx) Host(ctx context.Context, hostID string) (*scheduler.HostRecord, error) {
	r, err := t.tx.Host(ctx, hostID)
	if err != nil {
		return nil, fmt.Errorf("read host %s: %w", hostID, interpret(err))
	}
	return t.hostRecord(r)
}

func (t schedulerTx) hostRecord(r gen.Host) (*scheduler.HostRecord, error) {
	h, err := t.host(gen.HostsRow{ID: r.ID, Name: r.Name, Version: r.Version, Inventory: r.Inventory,
		JoinedAt: r.JoinedAt, SeenAt: r.SeenAt})
	return &scheduler.HostRecord{Host: h, CoolUntil: fromMicros(r.CoolUntil)}, err
}

// ChangedHosts implements scheduler.Reader.
func (t schedulerTx) ChangedHosts(ctx context.Context, since time.Time) ([]*scheduler.HostRecord, error) {
	if err := t.settled(ctx); err != nil {
		return nil, err
	}
	rows, err := t.tx.ChangedHosts(ctx, max(0, since.UnixMicro()))
	if err != nil {
		return nil, err
	}
	hosts := make([]*scheduler.HostRecord, len(rows))
	for i, r := range rows {
		if hosts[i], err = t.hostRecord(r); err != nil {
			return nil, err
		}
	}
	return hosts, nil
}

// SeenHosts implements scheduler.Reader.
func (t schedulerTx) SeenHosts(ctx context.Context) (map[string]time.Time, error) {
	rows, err := t.tx.SeenHosts(ctx)
	seen := make(map[string]time.Time, len(rows))
	for _, r := range rows {
		seen[r.ID] = fromMicros(r.SeenAt)
	}
	return seen, err
}

// Hosts implements scheduler.Reader.
func (t schedulerTx) Hosts(ctx context.Context) ([]nimbus.Host, error) {
	rows, err := t.tx.Hosts(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]nimbus.Host, len(rows))
	for i, r := range rows {
		if out[i], err = t.host(r); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// host is a row in the words of the scheduler. Whether a host is away follows
// from when it was seen; nothing has to be written for it to come back.
func (t schedulerTx) host(r gen.HostsRow) (nimbus.Host, error) {
	h := nimbus.Host{ID: r.ID, Name: r.Name, Version: r.Version, State: nimbus.HostReady,
		JoinedAt: fromMicros(r.JoinedAt), SeenAt: fromMicros(r.SeenAt), Running: int(r.Running)}
	if t.tx.now.Sub(h.SeenAt) > nimbus.LeaseDuration {
		h.State = nimbus.HostAway
	}
	if err := json.Unmarshal([]byte(r.Inventory), &h.Inventory); err != nil {
		return nimbus.Host{}, fmt.Errorf("read the inventory of host %s: %w", r.ID, err)
	}
	return h, nil
}

// InsertHost implements scheduler.Tx.
func (t schedulerTx) InsertHost(ctx context.Context, h nimbus.Host) error {
	inventory, err := json.Marshal(h.Inventory)
	if err != nil {
		return err
	}
	return t.tx.InsertHost(ctx, gen.InsertHostParams{ID: h.ID, Name: h.Name, Version: h.Version,
		Inventory: string(inventory), JoinedAt: micros(h.JoinedAt), SeenAt: micros(h.SeenAt), ChangedAt: t.nowMicros()})
}

// UpdateHost implements scheduler.Tx.
func (t schedulerTx) UpdateHost(ctx context.Context, hostID, version string, inv nimbus.Inventory) error {
	inventory, err := json.Marshal(inv)
	if err != nil {
		return err
	}
	n, err := t.tx.UpdateHost(ctx, gen.UpdateHostParams{ID: hostID, Version: version, Inventory: string(inventory), SeenAt: t.nowMicros()})
	return known(n, err)
}

// touchHosts only moves forward: calls of one host may overtake each other.
func newTouchHosts() bulk {
	b := bulkUpdate("hosts", "id text", "seen_at bigint")
	b.one += " AND seen_at < $2"
	b.many += " AND t.seen_at < v.seen_at"
	return b
}

// TouchHosts implements scheduler.Tx.
func (t schedulerTx) TouchHosts(ctx context.Context, hostIDs []string) error {
	ids := slices.Clone(hostIDs)
	slices.Sort(ids)
	rows := make([][]any, 0, len(ids))
	for _, id := range slices.Compact(ids) {
		rows = append(rows, []any{id, t.nowMicros()})
	}
	_, err := t.tx.flushes.touchHosts.exec(ctx, t.tx, rows)
	return err
}

// CoolHost implements scheduler.Tx.
func (t schedulerTx) CoolHost(ctx context.Context, hostID string, until time.Time) error {
	return t.tx.CoolHost(ctx, gen.CoolHostParams{ID: hostID, CoolUntil: micros(until), ChangedAt: t.nowMicros()})
}

// known is not_found when no host was changed.
func known(rows int64, err error) error {
	if err == nil && rows == 0 {
		return nimbus.Errorf(nimbus.CodeNotFound, "there is no such host")
	}
	return err
}
