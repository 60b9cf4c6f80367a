package near

import (
	"bytes"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/transfer"
)

// TestListsAreBounded: lists of blocks that are under way take so much memory and no
// more, however many there are; who sends one that is not kept here does not notice.
func TestListsAreBounded(t *testing.T) {
	t.Parallel()
	var lists, refused atomic.Int64
	begin := func(n int) *passing {
		p := &passing{from: io.NopCloser(strings.NewReader(strings.Repeat(" ", n))), announced: -1, refused: &refused, lists: &lists, list: &bytes.Buffer{}, log: func(err error) { t.Error(err) }}
		if got, err := io.Copy(io.Discard, p); err != nil || got != int64(n) {
			t.Fatalf("%d bytes passed, %v", got, err)
		}
		return p
	}
	var all []*passing
	for range maxLists / transfer.MaxBlockList {
		all = append(all, begin(transfer.MaxBlockList))
	}
	if refused.Load() != 0 {
		t.Fatalf("%d were refused", refused.Load())
	}
	over := begin(transfer.MaxBlockList)
	if _, ok := over.blocks(); ok || refused.Load() != 1 {
		t.Errorf("one more is kept; %d were refused", refused.Load())
	}
	over.discard()
	if got, want := lists.Load(), int64(len(all))*transfer.MaxBlockList; got != want {
		t.Errorf("%d bytes are counted, want %d", got, want)
	}
	for _, p := range all {
		p.discard()
		p.discard()
	}
	if lists.Load() != 0 {
		t.Errorf("%d bytes are counted, of nothing", lists.Load())
	}
	if long := begin(transfer.MaxBlockList + 1); !long.lost || lists.Load() != 0 {
		t.Errorf("a list that is too long is kept: %d bytes", lists.Load())
	}
}
