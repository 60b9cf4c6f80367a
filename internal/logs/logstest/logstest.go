// Package logstest is the suite that every store of logs passes.
package logstest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
)

// Store is what the suite tries.
type Store interface {
	logs.Store
	logs.Looker
	logs.Searcher
	logs.Outbox
}

// Run tries a store. reopen opens it, and called again opens it anew on what the one
// before it acknowledged, which may have been cut off.
func Run(t *testing.T, reopen func() Store) {
	t.Helper()
	t.Run("model", func(t *testing.T) {
		s := reopen()
		rapid.Check(t, func(rt *rapid.T) {
			m := newModel(rt, s, reopen)
			rt.Repeat(map[string]func(*rapid.T){
				"append": m.append, "read": m.read, "counts": m.counts, "list": m.list, "search": m.search, "delete": m.delete,
				"ship": m.ship, "reopen": m.reopenAll, "": m.check,
			})
			m.drain(rt)
			s = m.store
		})
	})
	t.Run("orgs", func(t *testing.T) { orgs(t, reopen()) })
	t.Run("pages", func(t *testing.T) { pages(t, reopen()) })
	t.Run("recordings", func(t *testing.T) { recordings(t, reopen()) })
}

// words are what lines are made of; a search looks for some.
func words() []string {
	return []string{"", "ok", "building", "ERROR", "WARN", "::error::", "level=debug", "needle", "\xff\xfe", "a\nb", "é", "INFO"}
}

// model is what a store should say.
type model struct {
	store  Store
	reopen func() Store
	orgs   []string
	keys   []nimbus.LogKey
	lines  map[nimbus.LogKey][]nimbus.Line

	owed map[nimbus.LogKey][]nimbus.Line // to the outbox
}

func newModel(t *rapid.T, s Store, reopen func() Store) *model {
	m := &model{store: s, reopen: reopen, lines: map[nimbus.LogKey][]nimbus.Line{}, owed: map[nimbus.LogKey][]nimbus.Line{}}
	now := time.Now()
	for range 2 {
		m.orgs = append(m.orgs, nimbus.NewID(nimbus.PrefixOrg, now))
	}
	for i := range rapid.IntRange(1, 6).Draw(t, "logs") {
		m.keys = append(m.keys, nimbus.LogKey{OrgID: m.orgs[i%2], AttemptID: nimbus.NewID(nimbus.PrefixAttempt, now.Add(time.Duration(i)*time.Second))})
	}
	return m
}

func (m *model) key(t *rapid.T) nimbus.LogKey { return rapid.SampledFrom(m.keys).Draw(t, "log") }

func (m *model) append(t *rapid.T) {
	key := m.key(t)
	have := m.lines[key]
	first := int64(len(have)) + 1 + int64(rapid.IntRange(-3, 1).Draw(t, "first"))
	first = max(1, first)
	lines := make([]nimbus.Line, rapid.IntRange(1, 40).Draw(t, "lines"))
	long := rapid.IntRange(0, 30).Draw(t, "long") == 0
	for i := range lines {
		seq := first + int64(i)
		if int(seq) <= len(have) {
			lines[i] = have[seq-1]
			continue
		}
		text := strings.Join(rapid.SliceOfN(rapid.SampledFrom(words()), 0, 4).Draw(t, "text"), " ")
		if long {
			text += strings.Repeat("long ", 10_000)
		}
		lines[i] = nimbus.Line{
			Seq: seq, At: time.UnixMicro(1_700_000_000_000_000 + rapid.Int64Range(-1e9, 1e9).Draw(t, "at")).UTC(), Step: int32(rapid.IntRange(0, 3).Draw(t, "step")),
			Group:  int32(rapid.IntRange(0, 2).Draw(t, "group")),
			Stream: rapid.SampledFrom([]nimbus.Stream{nimbus.StreamStdout, nimbus.StreamStderr, nimbus.StreamSystem, nimbus.StreamStep}).Draw(t, "stream"), Text: text,
		}
	}
	acked, err := m.store.Append(context.Background(), key, lines)
	if err != nil {
		t.Fatal(err)
	}
	if first <= int64(len(have))+1 {
		fresh := lines[min(len(lines), len(have)+1-int(first)):]
		m.lines[key] = append(have, fresh...)
		m.owed[key] = append(m.owed[key], fresh...)
	}
	if acked != int64(len(m.lines[key])) {
		t.Fatalf("acknowledged %d of %d lines", acked, len(m.lines[key]))
	}
}

func same(t *rapid.T, what string, want, got any) {
	t.Helper()
	if diff := gocmp.Diff(want, got, gocmp.Transformer("none", func(l []nimbus.Line) []nimbus.Line {
		if len(l) == 0 {
			return nil
		}
		return l
	})); diff != "" {
		t.Fatalf("%s: (-want +got)\n%.4000s", what, diff)
	}
}

func (m *model) read(t *rapid.T) {
	key := m.key(t)
	all := m.lines[key]
	from, limit := rapid.IntRange(1, len(all)+2).Draw(t, "from"), rapid.IntRange(1, 100).Draw(t, "limit")
	got, err := m.store.Read(context.Background(), key, int64(from), limit)
	if err != nil {
		t.Fatal(err)
	}
	rest := all[min(len(all), from-1):]
	if len(got) == 0 && len(rest) > 0 {
		t.Fatalf("no lines from %d on, of %d", from, len(all))
	}
	same(t, "read", rest[:min(limit, len(rest))], got)
}

func (m *model) counts(t *rapid.T) {
	key := m.key(t)
	got, err := m.store.Counts(context.Background(), key)
	if err != nil {
		t.Fatal(err)
	}
	var want logs.Counts
	for _, l := range m.lines[key] {
		want.Lines++
		want.Bytes += int64(len(l.Text)) + 1
		want.ByLevel[logs.LevelOf(l.Text)]++
		if want.First.IsZero() || l.At.Before(want.First) {
			want.First = l.At
		}
		if l.At.After(want.Last) {
			want.Last = l.At
		}
	}
	same(t, "counts", want, got)
}

// attempts are those of an org that have lines, the oldest first.
func (m *model) attempts(org string) (out []string) {
	for key, lines := range m.lines {
		if key.OrgID == org && len(lines) > 0 {
			out = append(out, key.AttemptID)
		}
	}
	slices.Sort(out)
	return out
}

func (m *model) list(t *rapid.T) {
	org := rapid.SampledFrom(m.orgs).Draw(t, "org")
	var got []string
	for after := ""; ; {
		page, err := m.store.List(context.Background(), org, after, 2)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		got, after = append(got, page...), page[len(page)-1]
	}
	same(t, "attempts", m.attempts(org), got)
}

func (m *model) query(t *rapid.T) logs.Query {
	q := logs.Query{
		Text: rapid.SampledFrom([]string{"", "needle", "ERROR", "ok building", "é", "absent"}).Draw(t, "text"), Limit: rapid.IntRange(1, 50).Draw(t, "limit"),
		Step: int32(rapid.IntRange(0, 2).Draw(t, "step")), Level: logs.Level(rapid.IntRange(0, 4).Draw(t, "level")),
	}
	if rapid.Bool().Draw(t, "pattern") {
		q.Text, q.Pattern = rapid.SampledFrom([]string{"^needle", "(?i)error", "o[kn]", "(ok|WARN) .*é", "needle$"}).Draw(t, "text"), true
	}
	if rapid.Bool().Draw(t, "bounded") {
		at := time.UnixMicro(1_700_000_000_000_000 + rapid.Int64Range(-1e9, 1e9).Draw(t, "since"))
		q.Since, q.Until = at, at.Add(5*time.Minute)
	}
	if rapid.Bool().Draw(t, "some") {
		q.Attempts = []string{m.key(t).AttemptID, m.key(t).AttemptID}
	}
	if rapid.Bool().Draw(t, "streams") {
		q.Streams = []nimbus.Stream{nimbus.StreamStderr, nimbus.StreamStep}
	}
	return q
}

func (m *model) search(t *rapid.T) {
	org, q := rapid.SampledFrom(m.orgs).Draw(t, "org"), m.query(t)
	match, err := q.Compile()
	if err != nil {
		t.Fatal(err)
	}
	var want []logs.Found
	for _, id := range slices.Backward(m.attempts(org)) {
		key := nimbus.LogKey{OrgID: org, AttemptID: id}
		for _, l := range m.lines[key] {
			level := logs.LevelOf(l.Text)
			if match.Line(l, level) && match.Text(l.Text) && (q.Attempts == nil || slices.Contains(q.Attempts, id)) {
				want = append(want, logs.Found{Key: key, Line: l, Level: level})
			}
		}
	}
	var got []logs.Found
	for {
		page, err := m.store.Search(context.Background(), org, q)
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Found) > q.Limit {
			t.Fatalf("a page of %d lines, at most %d", len(page.Found), q.Limit)
		}
		got = append(got, page.Found...)
		if page.Next == "" {
			break
		}
		q.After = page.Next
	}
	same(t, fmt.Sprintf("search for %+v", q), want, got)
}

func (m *model) delete(t *rapid.T) {
	if rapid.IntRange(0, 3).Draw(t, "rarely") != 0 {
		return
	}
	key := m.key(t)
	if err := m.store.Delete(context.Background(), key); err != nil {
		t.Fatal(err)
	}
	delete(m.lines, key)
	// What was deleted before it was handed on may be, or not: it is no longer looked at.
	m.drain(t)
}

// ship takes a batch from the outbox, sometimes twice.
func (m *model) ship(t *rapid.T) {
	b, ok, err := m.store.Next(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if !ok {
		return
	}
	if rapid.Bool().Draw(t, "again") {
		if rapid.Bool().Draw(t, "reopened") {
			m.store = m.reopen()
		}
		m.append(t)
		again, _, err := m.store.Next(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		same(t, "the same batch again", b, again)
	}
	m.took(t, b)
}

func (m *model) took(t *rapid.T, b logs.Batch) {
	for _, part := range b.Logs {
		owed := m.owed[part.Key]
		if m.lines[part.Key] == nil || !slices.Contains(m.keys, part.Key) {
			continue // deleted, or of a run before
		}
		if len(owed) < len(part.Lines) {
			t.Fatalf("%d lines were handed on, %d are owed", len(part.Lines), len(owed))
		}
		same(t, "handed on", owed[:len(part.Lines)], part.Lines)
		m.owed[part.Key] = owed[len(part.Lines):]
	}
	if err := m.store.Shipped(context.Background(), b.ID); err != nil {
		t.Fatal(err)
	}
}

// drain takes all that the outbox has.
func (m *model) drain(t *rapid.T) {
	for {
		b, ok, err := m.store.Next(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		m.took(t, b)
	}
	for key, owed := range m.owed {
		if m.lines[key] != nil && len(owed) > 0 {
			t.Fatalf("%d lines were not handed on", len(owed))
		}
		delete(m.owed, key)
	}
	if n, oldest, err := m.store.Lag(context.Background()); err != nil || n != 0 || !oldest.IsZero() {
		t.Fatalf("nothing waits, and the lag is %d bytes since %v, %v", n, oldest, err)
	}
}

func (m *model) reopenAll(t *rapid.T) {
	if rapid.IntRange(0, 2).Draw(t, "rarely") == 0 {
		m.store = m.reopen()
	}
}

func (m *model) check(t *rapid.T) {
	for _, key := range slices.SortedFunc(maps.Keys(m.lines), func(a, b nimbus.LogKey) int { return cmp.Compare(a.AttemptID, b.AttemptID) }) {
		acked, err := m.store.Acked(context.Background(), key)
		if err != nil || acked != int64(len(m.lines[key])) {
			t.Fatalf("%d lines are acknowledged of %d, %v", acked, len(m.lines[key]), err)
		}
	}
}

// Lines are made lines, of which each tells its number.
func Lines(from, to int64) []nimbus.Line {
	var out []nimbus.Line
	for seq := from; seq <= to; seq++ {
		out = append(out, nimbus.Line{
			Seq: seq, At: time.UnixMicro(1_700_000_000_000_000 + seq).UTC(), Stream: nimbus.StreamStep, Step: 7, Text: fmt.Sprintf("line %d \x1b[31m\xff not text", seq),
		})
	}
	return out
}

// Key is a log of an org of its own.
func Key() nimbus.LogKey {
	return nimbus.LogKey{OrgID: nimbus.NewID(nimbus.PrefixOrg, time.Now()), AttemptID: nimbus.NewID(nimbus.PrefixAttempt, time.Now())}
}

func appendAll(t *testing.T, s Store, key nimbus.LogKey, lines []nimbus.Line) {
	t.Helper()
	acked, err := s.Append(t.Context(), key, lines)
	if err != nil || acked != lines[len(lines)-1].Seq {
		t.Fatalf("acknowledged %d: %v", acked, err)
	}
}

// orgs: an attempt's id and another org's open nothing.
func orgs(t *testing.T, s Store) {
	ctx, key := t.Context(), Key()
	appendAll(t, s, key, Lines(1, 5))
	other := nimbus.LogKey{OrgID: nimbus.NewID(nimbus.PrefixOrg, time.Now()), AttemptID: key.AttemptID}
	lines, err := s.Read(ctx, other, 1, 10)
	acked, err2 := s.Acked(ctx, other)
	counts, err3 := s.Counts(ctx, other)
	list, err4 := s.List(ctx, other.OrgID, "", 10)
	page, err5 := s.Search(ctx, other.OrgID, logs.Query{Attempts: []string{key.AttemptID}})
	after, err6 := s.Search(ctx, other.OrgID, logs.Query{After: logs.Position{AttemptID: key.AttemptID}.String()})
	if err := cmp.Or(err, err2, err3, err4, err5, err6); err != nil {
		t.Fatal(err)
	}
	if n := len(lines) + int(acked) + int(counts.Lines) + len(list) + len(page.Found) + len(after.Found); n != 0 {
		t.Errorf("another org sees something: %v %v %v %v %v %v", lines, acked, counts, list, page, after)
	}
	if err := s.Delete(ctx, other); err != nil {
		t.Fatal(err)
	}
	if acked, err := s.Acked(ctx, key); err != nil || acked != 5 {
		t.Errorf("after another org deleted it: %d, %v", acked, err)
	}
	if page, err := s.Search(ctx, key.OrgID, logs.Query{Text: "line 3"}); err != nil || len(page.Found) != 1 {
		t.Errorf("its own org finds %d lines, %v", len(page.Found), err)
	}
}

// pages: one that is full goes on where it ended, and what can't be asked is refused.
func pages(t *testing.T, s Store) {
	key := Key()
	appendAll(t, s, key, Lines(1, 3000))
	page, err := s.Search(t.Context(), key.OrgID, logs.Query{Limit: 10, After: logs.Position{AttemptID: key.AttemptID, Seq: 2000}.String()})
	if err != nil || len(page.Found) != 10 || page.Found[0].Line.Seq != 2001 || page.Next == "" || page.Scanned == 0 {
		t.Errorf("%d lines, next %q, %v", len(page.Found), page.Next, err)
	}
	many := Key()
	for i := range 230 { // more than a store lists at once
		k := nimbus.LogKey{OrgID: many.OrgID, AttemptID: nimbus.NewID(nimbus.PrefixAttempt, time.Now().Add(time.Duration(i)*time.Second))}
		appendAll(t, s, k, Lines(1, 1))
	}
	found := map[string]bool{}
	for q := (logs.Query{Limit: 100}); ; {
		page, err := s.Search(t.Context(), many.OrgID, q)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range page.Found {
			found[f.Key.AttemptID] = true
		}
		if q.After = page.Next; q.After == "" {
			break
		}
	}
	if len(found) != 230 {
		t.Errorf("lines of %d logs were found of 230", len(found))
	}
	for _, q := range []logs.Query{{Text: "(", Pattern: true}, {After: "nowhere"}, {Limit: -1}} {
		if _, err := s.Search(t.Context(), key.OrgID, q); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
			t.Errorf("%+v: %v", q, err)
		}
	}
}

// recordings of shells are for operators: they are neither searched nor listed, nor
// handed on.
func recordings(t *testing.T, s Store) {
	key := Key()
	key.AttemptID = nimbus.NewID(nimbus.PrefixShell, time.Now())
	appendAll(t, s, key, Lines(1, 5))
	page, err := s.Search(t.Context(), key.OrgID, logs.Query{Attempts: []string{key.AttemptID}})
	all, err2 := s.Search(t.Context(), key.OrgID, logs.Query{})
	list, err3 := s.List(t.Context(), key.OrgID, "", 10)
	if err := cmp.Or(err, err2, err3); err != nil || len(page.Found)+len(all.Found)+len(list) > 0 {
		t.Errorf("%v %v %v, %v", page, all, list, err)
	}
	for {
		b, ok, err := s.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return
		}
		for _, part := range b.Logs {
			if part.Key == key {
				t.Error("a recording was handed on")
			}
		}
		if err := s.Shipped(t.Context(), b.ID); err != nil {
			t.Fatal(err)
		}
	}
}
