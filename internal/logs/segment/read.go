package segment

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
)

// rowOverhead is what an unpacked line takes beside its text.
const rowOverhead = 96

// unpacked returns the lines of a frame, or those in memory for the last one.
// Called with a.mu held.
func (s *Store) unpacked(a *attempt, i int) ([]row, error) {
	key := blockKey{log: a, deleted: a.deleted}
	if i < len(a.frames) {
		key.first, key.rows = a.frames[i].first, int64(a.frames[i].rows)
	} else {
		key.first, key.rows = a.pending.first, int64(a.pending.rows)
	}
	if rows, ok := s.recent.get(key); ok {
		return rows, nil
	}
	var rows []row
	var err error
	var bytes int
	if i < len(a.frames) {
		in, openErr := a.handle(0)
		if openErr != nil {
			return nil, fmt.Errorf("read log: %w", openErr)
		}
		rows, err = s.rows(in, a.frames[i])
		bytes = a.frames[i].rawText
	} else {
		rows, err = readRows(a.pending.first, a.pending.rows, a.pending.meta, string(a.pending.text))
		bytes = len(a.pending.text)
	}
	if err != nil {
		return nil, err
	}
	s.recent.put(key, rows, bytes+len(rows)*rowOverhead)
	return rows, nil
}

// blocks is how many frames there are, with what is in memory. Called with mu held.
func (a *attempt) blocks() int {
	if a.pending.rows > 0 {
		return len(a.frames) + 1
	}
	return len(a.frames)
}

// span is which lines a block has. Called with mu held.
func (a *attempt) span(i int) (first, last int64) {
	if i < len(a.frames) {
		return a.frames[i].first, a.frames[i].last()
	}
	return a.pending.first, a.pending.first + int64(a.pending.rows) - 1
}

// Read implements logs.Store.
func (s *Store) Read(_ context.Context, key nimbus.LogKey, from int64, limit int) ([]nimbus.Line, error) {
	a, err := s.acquire(key)
	if err != nil {
		return nil, err
	}
	defer s.release(a)
	a.mu.RLock()
	defer a.mu.RUnlock()
	from = max(1, from)
	i := sort.Search(a.blocks(), func(i int) bool { _, last := a.span(i); return last >= from })
	var out []nimbus.Line
	for ; i < a.blocks() && len(out) < limit; i++ {
		first, last := a.span(i)
		if first > from {
			if len(out) > 0 {
				return out, nil // the next call tells
			}
			return nil, &logs.DamagedError{First: from, Last: first - 1, Err: errDamaged}
		}
		rows, err := s.unpacked(a, i)
		if err != nil && len(out) > 0 {
			return out, nil // what lies before it is read; the next call tells
		}
		if errors.Is(err, errDamaged) {
			return nil, &logs.DamagedError{First: from, Last: last, Err: err}
		}
		if err != nil {
			return nil, err
		}
		rows = rows[from-first:]
		rows = rows[:min(len(rows), limit-len(out))]
		out = slices.Grow(out, len(rows))
		for _, r := range rows {
			out = append(out, r.Line)
		}
		from += int64(len(rows))
	}
	return out, nil
}

// Acked implements logs.Store.
func (s *Store) Acked(_ context.Context, key nimbus.LogKey) (int64, error) {
	a, err := s.acquire(key)
	if err != nil {
		return 0, err
	}
	defer s.release(a)
	return a.end(), nil
}

// Counts implements logs.Looker.
func (s *Store) Counts(_ context.Context, key nimbus.LogKey) (c logs.Counts, err error) {
	a, err := s.acquire(key)
	if err != nil {
		return c, err
	}
	defer s.release(a)
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.blocks() == 0 {
		return c, nil
	}
	earliest, latest := int64(math.MaxInt64), int64(math.MinInt64)
	count := func(levels [logs.LevelError + 1]int64, text int, from, to int64) {
		for l, n := range levels {
			c.ByLevel[l] += n
			c.Lines += n
		}
		c.Bytes += int64(text)
		earliest, latest = min(earliest, from), max(latest, to)
	}
	for i, f := range a.frames {
		if !f.old {
			count(f.levels, f.rawText, f.earliest, f.latest)
			continue
		}
		rows, err := s.unpacked(a, i)
		if err != nil {
			return c, err
		}
		for _, r := range rows {
			var levels [logs.LevelError + 1]int64
			levels[r.level] = 1
			count(levels, len(r.Text)+1, r.At.UnixMicro(), r.At.UnixMicro())
		}
	}
	if p := &a.pending; p.rows > 0 {
		count(p.levels, len(p.text), p.earliest, p.latest)
	}
	c.First, c.Last = time.UnixMicro(earliest).UTC(), time.UnixMicro(latest).UTC()
	return c, nil
}

// List implements logs.Looker.
func (s *Store) List(_ context.Context, orgID, after string, limit int) ([]string, error) {
	all, err := s.attempts(orgID)
	if err != nil {
		return nil, err
	}
	i := sort.SearchStrings(all, after)
	if i < len(all) && all[i] == after {
		i++
	}
	return all[i:min(len(all), i+limit)], nil
}

// attempts returns those of an org that have a log, in the order of their ids.
func (s *Store) attempts(orgID string) ([]string, error) {
	if err := nimbus.CheckID(nimbus.PrefixOrg, orgID); err != nil {
		return nil, err
	}
	var all []string
	for _, a := range s.loaded() {
		if a.key.OrgID == orgID && !a.nothing() {
			all = append(all, a.key.AttemptID)
		}
	}
	names, err := s.disk.names(filepath.Join(s.dir, orgID))
	if err != nil {
		return nil, fmt.Errorf("list logs: %w", err)
	}
	for _, name := range names {
		if id, ok := strings.CutSuffix(name, extension); ok {
			all = append(all, id)
		}
	}
	all = slices.DeleteFunc(all, func(id string) bool { return nimbus.CheckID(nimbus.PrefixAttempt, id) != nil })
	slices.Sort(all)
	return slices.Compact(all), nil
}
