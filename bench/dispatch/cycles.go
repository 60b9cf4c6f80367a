package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/bench/replica"
	"github.com/nimbus-ci/nimbus/test/simhost"
)

// A cycle is, in full HTTP with everything on: the signed webhook that a job is
// queued, a host's poll that is offered it, its accept, the signed webhook that
// GitHub saw it completed by that host's runner, and the host's report that the
// runner has ended.
const (
	cycleHosts = 8
	hostSlots  = 64
	// inFlight is how many cycles are under way: enough that requests share
	// transactions, few enough that no queue builds up.
	inFlight = 256
	pollWait = 20 * time.Second
)

// cycler runs cycles against a plane.
type cycler struct {
	deliveries *deliveries
	hosts      []*simhost.Host
	next       atomic.Int64 // number of the last job, as GitHub's ids go
	room       chan struct{}
	done       atomic.Int64

	stop context.CancelCauseFunc
}

func newCycler(ctx context.Context, p *replica.Plane) (*cycler, error) {
	d, err := newDeliveries(p.URL, p.Secret)
	if err != nil {
		return nil, err
	}
	hosts, err := replica.Join(ctx, p.Client, cycleHosts, hostSlots)
	c := &cycler{deliveries: d, hosts: hosts, room: make(chan struct{}, inFlight)}
	c.next.Store(time.Now().UnixMicro())
	return c, err
}

// run runs n cycles and returns how long each tenth of them took.
func (c *cycler) run(ctx context.Context, n int) ([]time.Duration, error) {
	ctx, c.stop = context.WithCancelCause(ctx)
	defer c.stop(nil)
	if err := c.deliveries.renew(); err != nil {
		return nil, err
	}
	c.done.Store(0)
	var loops sync.WaitGroup
	for _, h := range c.hosts {
		loops.Go(func() { c.pollLoop(ctx, h, hostSlots, &loops) })
		loops.Go(func() { c.heartbeatLoop(ctx, h) })
	}
	var sends sync.WaitGroup
	feeding := make(chan struct{})
	go func() {
		defer close(feeding)
		for range n {
			select {
			case c.room <- struct{}{}:
			case <-ctx.Done():
				return
			}
			id := c.next.Add(1)
			sends.Go(func() { c.fail(c.deliveries.queue(ctx, id)) })
		}
	}()
	tenths, err := c.watch(ctx, n)
	c.stop(nil)
	<-feeding
	sends.Wait()
	loops.Wait()
	for len(c.room) > 0 {
		<-c.room
	}
	return tenths, err
}

// watch waits until all are done, and takes the time of each tenth.
func (c *cycler) watch(ctx context.Context, n int) (tenths []time.Duration, err error) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	began, last := time.Now(), time.Now()
	for {
		done := c.done.Load()
		for len(tenths) < 10 && done >= int64(n*(len(tenths)+1)/10) {
			tenths = append(tenths, time.Since(began))
			began = time.Now()
		}
		if len(tenths) == 10 {
			return tenths, nil
		}
		if time.Since(last) > 5*time.Second {
			progress("%d of %d cycles", done, n)
			last = time.Now()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("after %d cycles: %w", done, context.Cause(ctx))
		}
	}
}

// fail ends the run at the first error.
func (c *cycler) fail(err error) {
	if err != nil {
		c.stop(err)
	}
}

// pollLoop is a host with so many slots: it polls again once what it was offered
// is accepted and it has room for more, as the agent does.
func (c *cycler) pollLoop(ctx context.Context, h *simhost.Host, slots int, loops *sync.WaitGroup) {
	busy := make(chan struct{}, slots)
	for ctx.Err() == nil {
		select {
		case busy <- struct{}{}: // there is room for one at least
			<-busy
		case <-ctx.Done():
			return
		}
		offers, err := h.Poll(ctx, pollWait)
		if err != nil {
			if ctx.Err() == nil {
				c.fail(fmt.Errorf("poll: %w", err))
			}
			return
		}
		var accepts sync.WaitGroup
		for _, o := range offers {
			h.Hold(o.GetLease())
			busy <- struct{}{} // it has room for what it is offered
			accepts.Go(func() {
				a := c.accept(ctx, h, o.GetLease())
				if a == nil {
					<-busy
					return
				}
				loops.Go(func() {
					c.work(ctx, h, o.GetLease(), a)
					<-busy
				})
			})
		}
		accepts.Wait()
	}
}

// accept takes an offer. Nil when it failed, or had lapsed on a busy machine:
// then it is offered again.
func (c *cycler) accept(ctx context.Context, h *simhost.Host, l *nimbusv1.Lease) *nimbusv1.Assignment {
	a, err := h.Accept(ctx, l)
	if nimbus.ErrorCode(err) == nimbus.CodeFenced {
		h.Drop(l)
		return nil
	}
	if err != nil {
		c.fail(fmt.Errorf("accept: %w", err))
		return nil
	}
	return a
}

// work takes a job to its end.
func (c *cycler) work(ctx context.Context, h *simhost.Host, l *nimbusv1.Lease, a *nimbusv1.Assignment) {
	id, err := jobNumber(a.GetName())
	if err == nil {
		err = c.deliveries.complete(ctx, id, nimbus.RunnerName(l.GetAttemptId()))
	}
	if err == nil {
		err = h.Finish(ctx, l)
	}
	if err != nil {
		c.fail(fmt.Errorf("finish: %w", err))
		return
	}
	h.Drop(l)
	c.done.Add(1)
	<-c.room
}

func (c *cycler) heartbeatLoop(ctx context.Context, h *simhost.Host) {
	rest(ctx, rand.N(nimbus.HeartbeatInterval)) // hosts don't all begin at once
	tick := time.NewTicker(nimbus.HeartbeatInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if _, err := h.Heartbeat(ctx); err != nil && ctx.Err() == nil {
				c.fail(fmt.Errorf("heartbeat: %w", err))
			}
		case <-ctx.Done():
			return
		}
	}
}
