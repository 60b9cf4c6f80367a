package agent

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// capacity is what the host has free. What is reserved is released exactly.
type capacity struct {
	mu      sync.Mutex
	free    nimbus.Capacity
	changed chan struct{}
}

func newCapacity(total nimbus.Capacity) *capacity {
	return &capacity{free: total, changed: make(chan struct{})}
}

// now returns what is free, and a channel that is closed when more becomes so.
func (c *capacity) now() (nimbus.Capacity, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.free, c.changed
}

// reserve takes room for a job, or returns false.
func (c *capacity) reserve(class nimbus.Class) (nimbus.Reservation, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, left, ok := c.free.Reserve(class)
	c.free = left
	return r, ok
}

// adopt takes what a job has reserved that runs already, be there room or not.
func (c *capacity) adopt(r nimbus.Reservation) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.free = c.free.Take(r)
}

// release gives back what was reserved, to be called once for each.
func (c *capacity) release(r nimbus.Reservation) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.free = c.free.Release(r)
	close(c.changed)
	c.changed = make(chan struct{})
}

// tell lets those know who wait for more: what is free is asked for again.
func (c *capacity) tell() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.changed)
	c.changed = make(chan struct{})
}

// memoryMiB is the machine's memory.
func memoryMiB() (int, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("read memory size: %w", err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "MemTotal:"); ok {
			kib, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				return 0, fmt.Errorf("read memory size: %w", err)
			}
			return kib / 1024, nil
		}
	}
	return 0, errors.New("read memory size: /proc/meminfo has no MemTotal")
}

// jitter spreads d by a fifth to each side.
func jitter(d time.Duration) time.Duration {
	return d*4/5 + time.Duration(rand.Int64N(int64(d)*2/5+1))
}
