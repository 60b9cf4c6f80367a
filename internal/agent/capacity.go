package agent

import (
	"bufio"
	"errors"
	"fmt"
	"maps"
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
	gpus    map[string]int // in all
	changed chan struct{}
}

func newCapacity(total nimbus.Capacity) *capacity {
	return &capacity{free: total, gpus: maps.Clone(total.GPUs), changed: make(chan struct{})}
}

// setGPUs says how many GPUs there are in all: they go out of service and come
// back. What jobs have of them they keep.
func (c *capacity) setGPUs(total map[string]int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if maps.Equal(c.gpus, total) {
		return
	}
	free := maps.Clone(c.free.GPUs) // who asked before has the one before
	if free == nil {
		free = map[string]int{}
	}
	for profile, n := range c.gpus {
		free[profile] -= n
	}
	for profile, n := range total {
		free[profile] += n
	}
	maps.DeleteFunc(free, func(profile string, n int) bool { return n == 0 && total[profile] == 0 })
	c.free.GPUs, c.gpus = free, maps.Clone(total)
	close(c.changed)
	c.changed = make(chan struct{})
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
