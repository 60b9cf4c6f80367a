package forge

import (
	"errors"
	"io"
	"sync/atomic"
)

var errBudget = errors.New("memory budget used up")

// budget bounds the bytes that all requests together hold in memory.
type budget struct {
	limit int64
	used  atomic.Int64
}

// budgetReader takes from the budget what it has read, as it arrives: a
// request that announces much and sends nothing holds nothing.
type budgetReader struct {
	r      io.Reader
	budget *budget
	taken  int64
}

// Read reads, and fails with errBudget once the budget is used up.
func (b *budgetReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	b.taken += int64(n)
	if b.budget.used.Add(int64(n)) > b.budget.limit {
		return 0, errBudget
	}
	return n, err
}

// release gives back what was taken.
func (b *budgetReader) release() {
	b.budget.used.Add(-b.taken)
	b.taken = 0
}
