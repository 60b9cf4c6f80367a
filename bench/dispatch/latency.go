package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"github.com/nimbus-ci/nimbus/bench/replica"
)

const (
	waitingHosts = 1000
	arrivals     = 200 // jobs a second
)

// latencies are in milliseconds, of jobs that come at an even pace for a time
// while a thousand hosts wait.
type latencies struct {
	lease   percentiles // from queued to being a host's, by the database's clock
	webhook percentiles // from when a delivery is sent until it is answered
	jobs    int
}

type percentiles struct{ p50, p99 float64 }

// warmUp is how long jobs come before it counts: connections are made, plans.
const warmUp = 2 * time.Second

func measureLatencies(ctx context.Context, p *replica.Plane, database string, span time.Duration) (l latencies, err error) {
	hosts, err := replica.Join(ctx, p.Client, waitingHosts, 1)
	if err != nil {
		return l, err
	}
	defer func() {
		for _, h := range hosts {
			h.Close()
		}
	}()
	d, err := newDeliveries(p.URL, p.Secret)
	if err != nil {
		return l, err
	}
	c := &cycler{deliveries: d, hosts: hosts}
	c.next.Store(time.Now().UnixMicro())
	if err := c.pace(ctx, int(warmUp.Seconds()*arrivals)); err != nil {
		return l, err
	}
	began, err := databaseNow(ctx, database)
	if err != nil {
		return l, err
	}
	d.took, l.jobs = nil, int(span.Seconds()*arrivals)
	if err := c.pace(ctx, l.jobs); err != nil {
		return l, err
	}
	slices.Sort(d.took)
	l.webhook = percentiles{milliseconds(d.took[len(d.took)/2]), milliseconds(d.took[len(d.took)*99/100])}
	const lease = `SELECT percentile_cont(%g) WITHIN GROUP (ORDER BY a.accepted_at - j.queued_at) / 1000.0
		FROM jobs j JOIN attempts a ON a.id = j.attempt_id WHERE j.queued_at > $1 AND a.accepted_at > 0`
	return l, errors.Join(ask(ctx, database, fmt.Sprintf(lease, 0.5), began, &l.lease.p50),
		ask(ctx, database, fmt.Sprintf(lease, 0.99), began, &l.lease.p99))
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// pace delivers n jobs at an even pace, has hosts work them, and returns when
// all are done.
func (c *cycler) pace(ctx context.Context, n int) error {
	ctx, c.stop = context.WithCancelCause(ctx)
	defer c.stop(nil)
	c.room = make(chan struct{}, n)
	c.done.Store(0)
	var loops sync.WaitGroup
	for _, h := range c.hosts {
		loops.Go(func() { c.pollLoop(ctx, h, 1, &loops) })
		loops.Go(func() { c.heartbeatLoop(ctx, h) })
	}
	defer loops.Wait()
	defer c.stop(nil)
	rest(ctx, 3*time.Second) // until all wait
	tick := time.NewTicker(time.Second / arrivals)
	defer tick.Stop()
	for range n {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		c.room <- struct{}{}
		id := c.next.Add(1)
		loops.Go(func() { c.fail(c.deliveries.queue(ctx, id)) })
	}
	for c.done.Load() < int64(n) {
		rest(ctx, 10*time.Millisecond)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

func rest(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func databaseNow(ctx context.Context, database string) (now int64, err error) {
	return now, ask(ctx, database, "SELECT nimbus_now() WHERE $1 = 0", 0, &now)
}

// ask asks a database for one value.
func ask(ctx context.Context, database, question string, arg, into any) (err error) {
	db, err := sql.Open("pgx", database)
	if err != nil {
		return fmt.Errorf("open the database: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := db.QueryRowContext(ctx, question, arg).Scan(into); err != nil {
		return fmt.Errorf("ask the database: %w", err)
	}
	return nil
}
