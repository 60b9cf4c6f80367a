package store

import (
	"context"
	"math"
	"slices"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// What one page of a search may cost, and how many logs are listed at once.
const (
	searchBytes = 128 << 20 // of text
	searchTime  = 2 * time.Second
	searchLogs  = 200
	belowAll    = "atu" // sorts after all ids of attempts, in any language
)

// Search implements logs.Searcher.
func (l *Logs) Search(ctx context.Context, orgID string, q logs.Query) (logs.Page, error) {
	m, err := q.Compile()
	if err != nil {
		return logs.Page{}, err
	}
	f := logFinder{logs: l, orgID: orgID, matcher: m, deadline: time.Now().Add(l.search)}
	below := belowAll
	if m.After.AttemptID != "" {
		below = m.After.AttemptID + "0" // and so that attempt, too
	}
	for {
		ids, last, err := f.attempts(ctx, below)
		if err != nil {
			return logs.Page{}, err
		}
		for i, id := range ids {
			from := m.After.From(id)
			if from == 0 {
				continue
			}
			if done, err := f.log(ctx, id, from); err != nil || done {
				return f.page, err
			}
			// A page ends in time also where no page of many logs can have what is wanted.
			if more := i+1 < len(ids) || last != ""; more && time.Now().After(f.deadline) {
				f.page.Next = logs.EndOf(id).String()
				return f.page, nil
			}
		}
		if last == "" {
			return f.page, nil
		}
		below = last
	}
}

// logFinder makes one page.
type logFinder struct {
	logs     *Logs
	orgID    string
	matcher  *logs.Matcher
	deadline time.Time
	page     logs.Page
	text     int // bytes of the lines that the page has
}

// attempts are the next ones that have logs, the newest first, and the last of them
// if there may be more.
func (f *logFinder) attempts(ctx context.Context, below string) (ids []string, last string, err error) {
	if wanted := f.matcher.Query.Attempts; wanted != nil {
		ids = slices.DeleteFunc(slices.Clone(wanted), func(id string) bool { return nimbus.CheckID(nimbus.PrefixAttempt, id) != nil || id >= below })
		slices.Sort(ids)
		ids = slices.Compact(ids)
		slices.Reverse(ids)
		return ids, "", nil
	}
	err = f.logs.store.read(ctx, func(t *tx) error {
		ids, err = t.LogsBelow(ctx, gen.LogsBelowParams{OrgID: f.orgID, AttemptID: below, Limit: searchLogs})
		return err
	})
	if len(ids) == searchLogs {
		last = ids[len(ids)-1]
	}
	return ids, last, err
}

// log looks through a log. done says that the page is full.
func (f *logFinder) log(ctx context.Context, id string, from int64) (done bool, err error) {
	q := f.matcher.Query
	p := gen.LogPagesWithParams{
		AttemptID: id, OrgID: f.orgID, LastSeq: from, MaxLevel: int64(q.Level), LastAt: math.MinInt64, FirstAt: math.MaxInt64, Limit: pagesAtOnce,
	}
	if !q.Since.IsZero() {
		p.LastAt = q.Since.UnixMicro()
	}
	if !q.Until.IsZero() {
		p.FirstAt = q.Until.UnixMicro()
	}
	for {
		var pages []gen.LogPagesWithRow
		err := f.logs.store.read(ctx, func(t *tx) (err error) {
			pages, err = t.LogPagesWith(ctx, p)
			return err
		})
		if err != nil {
			return false, err
		}
		for _, page := range pages {
			lines, err := f.logs.lines(page.Format, page.Lines)
			if err != nil {
				return false, err
			}
			if f.take(id, from, lines) {
				return true, nil
			}
			p.LastSeq = page.LastSeq + 1
			if f.page.Scanned >= searchBytes || time.Now().After(f.deadline) {
				f.page.Next = logs.Position{AttemptID: id, Seq: page.LastSeq}.String()
				return true, nil
			}
		}
		if len(pages) < pagesAtOnce {
			return false, nil
		}
	}
}

// take adds the wanted ones of a page's lines. full says that there is no room for more.
func (f *logFinder) take(id string, from int64, lines []nimbus.Line) (full bool) {
	for _, line := range lines {
		f.page.Scanned += int64(len(line.Text)) + 1
		level := logs.LevelOf(line.Text)
		if line.Seq < from || !f.matcher.Line(line, level) || !f.matcher.Text(line.Text) {
			continue
		}
		f.page.Found = append(f.page.Found, logs.Found{Key: nimbus.LogKey{OrgID: f.orgID, AttemptID: id}, Line: line, Level: level})
		f.text += len(line.Text)
		if len(f.page.Found) == f.matcher.Query.Limit || f.text >= logs.MaxPageText {
			f.page.Next = logs.Position{AttemptID: id, Seq: line.Seq}.String()
			return true
		}
	}
	return false
}
