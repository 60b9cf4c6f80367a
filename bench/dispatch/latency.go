package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"github.com/nimbus-ci/nimbus/bench/replica"
	"github.com/nimbus-ci/nimbus/test/simhost"
)

const (
	waitingHosts = 1000
	arrivals     = 200 // jobs a second
)

// queueToLease is how long jobs take from being queued to being a host's, by
// the database's clock, while a thousand hosts wait: the 99th percentile in
// milliseconds of jobs that come at an even pace for a time.
func queueToLease(ctx context.Context, p *replica.Plane, database string, span time.Duration) (float64, int, error) {
	hosts, err := replica.Join(ctx, p.Client, waitingHosts, 1)
	if err != nil {
		return 0, 0, err
	}
	defer func() {
		for _, h := range hosts {
			h.Close()
		}
	}()
	began, err := databaseNow(ctx, database)
	if err != nil {
		return 0, 0, err
	}
	n := int(span.Seconds() * arrivals)
	if err := pace(ctx, p, hosts, n); err != nil {
		return 0, 0, err
	}
	var p99 float64
	err = ask(ctx, database, `SELECT percentile_cont(0.99) WITHIN GROUP (ORDER BY a.accepted_at - j.queued_at) / 1000.0
		FROM jobs j JOIN attempts a ON a.id = j.attempt_id WHERE j.queued_at > $1 AND a.accepted_at > 0`, began, &p99)
	return p99, n, err
}

// pace delivers n jobs at an even pace, has hosts work them, and returns when
// all are done.
func pace(ctx context.Context, p *replica.Plane, hosts []*simhost.Host, n int) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	d, err := newDeliveries(p.URL, p.Secret)
	if err != nil {
		return err
	}
	c := &cycler{deliveries: d, hosts: hosts, room: make(chan struct{}, n), stop: stop}
	c.next.Store(time.Now().UnixMicro())
	var loops sync.WaitGroup
	for _, h := range hosts {
		loops.Go(func() { c.pollLoop(ctx, h, 1, &loops) })
		loops.Go(func() { c.heartbeatLoop(ctx, h) })
	}
	defer loops.Wait()
	defer stop(nil)
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
		loops.Go(func() { c.fail(d.queue(ctx, id)) })
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
