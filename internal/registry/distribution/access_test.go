package distribution

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestCallersAreSmall: what is remembered of who calls does not grow with what they
// send.
//
//nolint:paralleltest // it measures what all of the program has
func TestCallersAreSmall(t *testing.T) {
	c, now := newCallers(), time.Now()
	long := strings.Repeat("a", 60_000)
	const n = 2000
	for i := range n {
		c.add(fmt.Sprint("Basic ", i, long), &caller{until: now.Add(time.Second)})
	}
	var has runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&has)
	if has.HeapAlloc > 32<<20 {
		t.Errorf("%d callers take %d MiB", n, has.HeapAlloc>>20)
	}
	if c.get(fmt.Sprint("Basic ", n-1, long), now) == nil || c.get(fmt.Sprint("Basic ", n, long), now) != nil || c.get(fmt.Sprint("Basic ", 0, long), now.Add(time.Second)) != nil {
		t.Error("who is remembered is somebody else")
	}
}
