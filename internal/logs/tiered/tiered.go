// Package tiered reads logs of two stores as of one: the first, which acknowledges
// lines and keeps the newest, and the second, to which they are copied and which has
// them for long. What both have is read once.
package tiered

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
)

// First is the store that acknowledges lines.
type First interface {
	logs.Store
	logs.Looker
	logs.Searcher
}

// Second is the store that has copies.
type Second interface {
	logs.Looker
	logs.Searcher
	// Read and Delete are those of logs.Store.
	Read(ctx context.Context, key nimbus.LogKey, from int64, limit int) ([]nimbus.Line, error)
	Delete(ctx context.Context, key nimbus.LogKey) error
	// Held tells how many lines of a log are there, each counted once, and the highest.
	Held(ctx context.Context, key nimbus.LogKey) (lines, last int64, err error)
	// Parked tells whether the store refused lines of a log for what is in them.
	Parked(ctx context.Context, key nimbus.LogKey) (bool, error)
}

// MinLocal is the least that the first store keeps a log after its end: of a younger
// one it is the only store that is asked.
const MinLocal = time.Hour

// Store is both. Its methods are safe for concurrent use.
type Store struct {
	first    First
	second   Second
	local    time.Duration
	minLocal time.Duration
	now      func() time.Time
}

var (
	_ logs.Store    = (*Store)(nil)
	_ logs.Looker   = (*Store)(nil)
	_ logs.Searcher = (*Store)(nil)
)

// New returns both as one. The first store has every log until it is over for local,
// which is MinLocal or more.
func New(first First, second Second, local time.Duration) *Store {
	return &Store{first: first, second: second, local: local, minLocal: MinLocal, now: time.Now}
}

// Append implements logs.Store: the first store acknowledges.
func (s *Store) Append(ctx context.Context, key nimbus.LogKey, lines []nimbus.Line) (int64, error) {
	return s.first.Append(ctx, key, lines)
}

// Acked implements logs.Store. Of a log that the first store has let go of it is what
// the second has: one that is there is not imported again, and its end is known. Codes:
// unavailable, where only the second store can tell.
func (s *Store) Acked(ctx context.Context, key nimbus.LogKey) (int64, error) {
	acked, err := s.first.Acked(ctx, key)
	if err != nil || acked > 0 || !s.mayBeGone(key) {
		return acked, err
	}
	_, last, err := s.second.Held(ctx, key)
	return last, err
}

// Read implements logs.Store. Codes: unavailable, where only the second store has a
// log and does not answer.
func (s *Store) Read(ctx context.Context, key nimbus.LogKey, from int64, limit int) ([]nimbus.Line, error) {
	lines, err := s.first.Read(ctx, key, from, limit)
	if err != nil || len(lines) > 0 {
		return lines, err
	}
	if gone, err := s.gone(ctx, key); err != nil || !gone {
		return nil, err
	}
	return s.second.Read(ctx, key, from, limit)
}

// Counts implements logs.Looker.
func (s *Store) Counts(ctx context.Context, key nimbus.LogKey) (logs.Counts, error) {
	c, err := s.first.Counts(ctx, key)
	if err != nil || c.Lines > 0 {
		return c, err
	}
	if gone, err := s.gone(ctx, key); err != nil || !gone {
		return c, err
	}
	return s.second.Counts(ctx, key)
}

// gone tells whether the first store may have let go of a log: it has nothing of it,
// and it is not so young that it must still. A log that is followed from its
// beginning is not looked for in the second store each second.
func (s *Store) gone(ctx context.Context, key nimbus.LogKey) (bool, error) {
	if !s.mayBeGone(key) {
		return false, nil
	}
	acked, err := s.first.Acked(ctx, key)
	return acked == 0, err
}

// mayBeGone tells whether a log is old enough for the first store to have let go of it.
func (s *Store) mayBeGone(key nimbus.LogKey) bool {
	at, ok := nimbus.IDTime(nimbus.PrefixAttempt, key.AttemptID)
	return ok && s.now().Sub(at) >= s.minLocal
}

// Delete implements logs.Store. The second store is first: what is in neither can
// be removed again.
func (s *Store) Delete(ctx context.Context, key nimbus.LogKey) error {
	if _, ok := nimbus.IDTime(nimbus.PrefixAttempt, key.AttemptID); ok {
		if err := s.second.Delete(ctx, key); err != nil {
			return err
		}
	}
	return s.first.Delete(ctx, key)
}

// List implements logs.Looker.
func (s *Store) List(ctx context.Context, orgID, after string, limit int) ([]string, error) {
	first, err := s.first.List(ctx, orgID, after, limit)
	if err != nil {
		return nil, err
	}
	second, err := s.second.List(ctx, orgID, after, limit)
	if err != nil {
		return nil, err
	}
	all := slices.Concat(first, second)
	slices.Sort(all)
	all = slices.Compact(all)
	return all[:min(len(all), limit)], nil
}

// Search implements logs.Searcher. Where the first store has all that may be found,
// the second isn't asked, and may be away.
func (s *Store) Search(ctx context.Context, orgID string, q logs.Query) (logs.Page, error) {
	m, err := q.Compile()
	if err != nil {
		return logs.Page{}, err
	}
	enough, err := s.firstHasAll(ctx, orgID, q)
	if err != nil {
		return logs.Page{}, err
	}
	first, err := s.first.Search(ctx, orgID, q)
	if err != nil || enough {
		return first, err
	}
	second, err := s.second.Search(ctx, orgID, q)
	if nimbus.ErrorCode(err) == nimbus.CodeUnavailable {
		return logs.Page{}, nimbus.Errorf(nimbus.CodeUnavailable, "the store of older logs does not answer: %w", err).
			WithHint("a search of the last %v needs it not", s.local)
	}
	if err != nil {
		return logs.Page{}, err
	}
	return merge(first, second, m.Query.Limit)
}

// firstHasAll tells whether the first store has all lines that a query can find:
// those of logs that it holds, or of the time for which it keeps each.
func (s *Store) firstHasAll(ctx context.Context, orgID string, q logs.Query) (bool, error) {
	if !q.Since.IsZero() && s.now().Sub(q.Since) < s.local-skew {
		return true, nil
	}
	if len(q.Attempts) == 0 {
		return false, nil
	}
	for _, a := range q.Attempts {
		if gone, err := s.gone(ctx, nimbus.LogKey{OrgID: orgID, AttemptID: a}); gone || err != nil {
			return false, err
		}
	}
	return true, nil
}

// skew is by how much the clock of a host, which a line's time is of, may be ahead.
const skew = 5 * time.Minute

// merge makes one page of two of the same query.
func merge(first, second logs.Page, limit int) (logs.Page, error) {
	page := logs.Page{Scanned: first.Scanned + second.Scanned}
	end, err := nearer(first.Next, second.Next)
	if err != nil {
		return page, err
	}
	all := slices.Concat(first.Found, second.Found)
	slices.SortStableFunc(all, func(a, b logs.Found) int { return compare(positionOf(a), positionOf(b)) })
	for _, f := range all {
		at := positionOf(f)
		switch n := len(page.Found); {
		case end != nil && compare(at, *end) > 0: // one store has looked no further
		case n > 0 && positionOf(page.Found[n-1]) == at: // both have it
			continue
		case n == limit:
			last := positionOf(page.Found[n-1])
			end = &last
		default:
			page.Found = append(page.Found, f)
			continue
		}
		break
	}
	if end != nil {
		page.Next = end.String()
	}
	return page, nil
}

// nearer is how far both have looked, nil for all.
func nearer(a, b string) (*logs.Position, error) {
	var end *logs.Position
	for _, next := range []string{a, b} {
		if next == "" {
			continue
		}
		p, err := logs.ParsePosition(next)
		if err != nil {
			return nil, fmt.Errorf("read where a page ends: %w", err)
		}
		if end == nil || compare(p, *end) < 0 {
			end = &p
		}
	}
	return end, nil
}

func positionOf(f logs.Found) logs.Position {
	return logs.Position{AttemptID: f.Key.AttemptID, Seq: f.Line.Seq}
}

// compare orders positions as searches go: newest attempts first.
func compare(a, b logs.Position) int {
	return cmp.Or(strings.Compare(b.AttemptID, a.AttemptID), cmp.Compare(a.Seq, b.Seq))
}
