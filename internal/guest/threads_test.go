package guest

import (
	"os"
	"runtime"
	"testing"
)

// TestThreadsAreKept: as many as are kept for bad times, in the kernel's books.
func TestThreadsAreKept(t *testing.T) {
	keepThreads()
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	if want := runtime.GOMAXPROCS(0) + spareThreads; len(threads) < want {
		t.Errorf("%d threads, not %d", len(threads), want)
	}
}
