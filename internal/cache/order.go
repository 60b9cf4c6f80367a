package cache

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/nimbus-ci/nimbus"
)

// Came is a block of an upload, as the store has it.
type Came struct {
	ID   string // see Block
	Size int64
}

// InOrder is the order of blocks for which no list came: of one block alone, or
// of ranges that meet. Codes: invalid.
func InOrder(blocks []Came) ([]string, error) {
	if len(blocks) == 1 && blocks[0].ID == named {
		return []string{named}, nil
	}
	type part struct {
		Came

		from int64
	}
	parts := make([]part, len(blocks))
	for i, b := range blocks {
		offset, isRange := strings.CutPrefix(b.ID, at)
		from, err := strconv.ParseInt(offset, 10, 64)
		if !isRange || err != nil {
			return nil, nimbus.Errorf(nimbus.CodeInvalid, "the list of blocks is missing").
				WithHint("a content of several blocks is committed after the list that says their order")
		}
		parts[i] = part{b, from}
	}
	// An empty one comes before what begins at the same byte.
	slices.SortFunc(parts, func(a, b part) int { return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.Size, b.Size)) })
	order, end := make([]string, len(parts)), int64(0)
	for i, p := range parts {
		if p.from > end {
			return nil, nimbus.Errorf(nimbus.CodeInvalid, "nothing came for the bytes from %d to %d", end, p.from-1)
		}
		if p.from < end {
			return nil, nimbus.Errorf(nimbus.CodeInvalid, "the bytes from %d to %d came in two ranges", p.from, end-1)
		}
		order[i], end = p.ID, end+p.Size
	}
	return order, nil
}
