package forge

import (
	"errors"
	"io"
	"sync/atomic"
)

var errInFlight = errors.New("memory budget used up")

// inFlight bounds the bytes that all requests together hold in memory.
type inFlight struct {
	limit int64
	used  atomic.Int64
}

// inFlightReader takes from the budget what it has read, as it arrives: a
// request that announces much and sends nothing holds nothing.
type inFlightReader struct {
	r      io.Reader
	budget *inFlight
	taken  int64
}

// Read reads, and fails with errInFlight once the budget is used up.
func (b *inFlightReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	b.taken += int64(n)
	if b.budget.used.Add(int64(n)) > b.budget.limit {
		return 0, errInFlight
	}
	return n, err
}

// release gives back what was taken.
func (b *inFlightReader) release() {
	b.budget.used.Add(-b.taken)
	b.taken = 0
}
