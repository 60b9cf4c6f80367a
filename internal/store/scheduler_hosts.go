package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
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
		JoinedAt: r.JoinedAt, SeenAt: r.SeenAt, Free: r.Free, Warm: r.Warm, CordonedAt: r.CordonedAt})
	return &scheduler.HostRecord{Host: h, CoolUntil: fromMicros(r.CoolUntil), Removed: r.RemovedAt != 0}, err
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
func (t schedulerTx) SeenHosts(ctx context.Context) (map[string]scheduler.Sighting, error) {
	rows, err := t.tx.SeenHosts(ctx)
	seen := make(map[string]scheduler.Sighting, len(rows))
	for _, r := range rows {
		seen[r.ID] = scheduler.Sighting{At: fromMicros(r.SeenAt), Warm: strings.Fields(r.Warm)}
	}
	return seen, err
}

// Hosts implements scheduler.Reader.
func (t schedulerTx) Hosts(ctx context.Context, after string, most int) ([]nimbus.Host, error) {
	rows, err := t.tx.Hosts(ctx, gen.HostsParams{ID: after, Limit: int32(most)})
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
		JoinedAt: fromMicros(r.JoinedAt), SeenAt: fromMicros(r.SeenAt), Running: int(r.Running), Cordoned: r.CordonedAt != 0}
	if t.tx.now.Sub(h.SeenAt) > nimbus.LeaseDuration {
		h.State = nimbus.HostAway
	}
	err := errors.Join(json.Unmarshal([]byte(r.Inventory), &h.Inventory), unmarshalSome(r.Free, &h.Free))
	if err != nil {
		return nimbus.Host{}, fmt.Errorf("read what host %s has: %w", r.ID, err)
	}
	if warm := strings.Fields(r.Warm); len(warm) > 0 {
		h.Free.Warm = warm
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

// newTouchHosts makes a statement that only moves forward: calls of one host
// may overtake each other. What is not known of a host stays as it was.
func newTouchHosts() bulk {
	b := bulkUpdate("hosts", "id text", "seen_at bigint, free text, warm text, closed text")
	b.one = strings.NewReplacer("free = $3", "free = CASE WHEN $3 = '' THEN free ELSE $3 END",
		"warm = $4", "warm = CASE WHEN $3 = '' THEN warm ELSE $4 END",
		"closed = $5", "closed = CASE WHEN $3 = '' THEN closed ELSE $5 END").Replace(b.one) + " AND seen_at < $2"
	b.many = strings.NewReplacer("free = v.free", "free = CASE WHEN v.free = '' THEN t.free ELSE v.free END",
		"warm = v.warm", "warm = CASE WHEN v.free = '' THEN t.warm ELSE v.warm END",
		"closed = v.closed", "closed = CASE WHEN v.free = '' THEN t.closed ELSE v.closed END").Replace(b.many) + " AND t.seen_at < v.seen_at"
	return b
}

// TouchHosts implements scheduler.Tx.
func (t schedulerTx) TouchHosts(ctx context.Context, hosts map[string]*nimbus.Capacity) error {
	rows := make([][]any, 0, len(hosts))
	for _, id := range sortedKeys(hosts) {
		free, warm, closed := "", "", ""
		if c := hosts[id]; c != nil {
			told := *c
			told.Warm, warm, closed = nil, strings.Join(c.Warm, " "), string(c.Load.Closed)
			b, err := json.Marshal(told)
			if err != nil {
				return err
			}
			free = string(b)
		}
		rows = append(rows, []any{id, t.nowMicros(), free, warm, closed})
	}
	w := pipeline{tx: t.tx}
	w.write("touch hosts", t.tx.flushes.touchHosts, rows)
	return w.run(ctx)
}

// CoolHost implements scheduler.Tx.
func (t schedulerTx) CoolHost(ctx context.Context, hostID string, until time.Time) error {
	return t.tx.CoolHost(ctx, gen.CoolHostParams{ID: hostID, CoolUntil: micros(until), ChangedAt: t.nowMicros()})
}

// CordonHost implements scheduler.Tx.
func (t schedulerTx) CordonHost(ctx context.Context, hostID string, cordoned bool) error {
	p := gen.CordonHostParams{ID: hostID, ChangedAt: t.nowMicros()}
	if cordoned {
		p.CordonedAt = t.nowMicros()
	}
	return known(t.tx.CordonHost(ctx, p))
}

// RemoveHost implements scheduler.Tx.
func (t schedulerTx) RemoveHost(ctx context.Context, hostID string) error {
	if err := known(t.tx.RemoveHost(ctx, gen.RemoveHostParams{ID: hostID, RemovedAt: t.nowMicros()})); err != nil {
		return err
	}
	if err := t.tx.DeleteHostKey(ctx, hostID); err != nil { // first: see OpenHostSession
		return err
	}
	return t.tx.endSubject(ctx, hostID, nimbus.AuditEvent{})
}

// known is not_found when no host was changed.
func known(rows int64, err error) error {
	if err == nil && rows == 0 {
		return nimbus.Errorf(nimbus.CodeNotFound, "there is no such host")
	}
	return err
}
