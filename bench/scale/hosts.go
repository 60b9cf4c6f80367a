package main

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/bench/replica"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/test/simhost"
)

const pollWait = 20 * time.Second

// beats are how long heartbeats took, while they are asked for.
type beats struct {
	mu    sync.Mutex
	taken bool
	took  []time.Duration
	errs  int
}

// beHosts joins hosts and keeps them going until its input ends. A line with a
// time makes it answer with the 99th percentile of the heartbeats in it.
func beHosts(ctx context.Context, url, tokenFile, count string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return fmt.Errorf("%q is no number of hosts", count)
	}
	token, err := os.ReadFile(tokenFile)
	if err != nil {
		return fmt.Errorf("read the token: %w", err)
	}
	c, err := client.New(client.Config{Server: url, Token: strings.TrimSpace(string(token))})
	if err != nil {
		return err
	}
	fleet, err := replica.Join(ctx, c, n, 1)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var b beats
	var all sync.WaitGroup
	for _, h := range fleet {
		all.Go(func() { poll(ctx, h) })
		all.Go(func() { b.beat(ctx, h) })
	}
	pause(ctx, nimbus.HeartbeatInterval+time.Second) // until each has done both
	fmt.Println("joined")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		d, err := time.ParseDuration(lines.Text())
		if err != nil {
			return fmt.Errorf("%q is no time", lines.Text())
		}
		p99, err := b.watch(ctx, d)
		if err != nil {
			return err
		}
		fmt.Println(p99)
	}
	stop()
	all.Wait()
	return nil
}

func poll(ctx context.Context, h *simhost.Host) {
	pause(ctx, rand.N(nimbus.HeartbeatInterval))
	for ctx.Err() == nil {
		if _, err := h.Poll(ctx, pollWait); err != nil {
			pause(ctx, time.Second)
		}
	}
}

// beat sends heartbeats. Hosts do not begin together.
func (b *beats) beat(ctx context.Context, h *simhost.Host) {
	pause(ctx, rand.N(nimbus.HeartbeatInterval))
	tick := time.NewTicker(nimbus.HeartbeatInterval)
	defer tick.Stop()
	for ctx.Err() == nil {
		began := time.Now()
		_, err := h.Heartbeat(ctx)
		b.note(time.Since(began), err)
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

func (b *beats) note(took time.Duration, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case !b.taken:
	case err != nil:
		b.errs++
	default:
		b.took = append(b.took, took)
	}
}

// watch collects for a while. One heartbeat that failed is an error: there is
// nothing that should make it.
func (b *beats) watch(ctx context.Context, d time.Duration) (p99MS float64, err error) {
	b.mu.Lock()
	b.taken, b.took, b.errs = true, nil, 0
	b.mu.Unlock()
	pause(ctx, d)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.taken = false
	if b.errs > 0 {
		return 0, fmt.Errorf("%d heartbeats of %d failed", b.errs, b.errs+len(b.took))
	}
	if len(b.took) == 0 {
		return 0, nil
	}
	slices.Sort(b.took)
	return float64(b.took[len(b.took)*99/100].Microseconds()) / 1000, nil
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
