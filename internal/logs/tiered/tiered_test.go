package tiered

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
	"github.com/nimbus-ci/nimbus/internal/logs/clickhouse"
	"github.com/nimbus-ci/nimbus/internal/logs/segment"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// world is the embedded store, ClickHouse, and both as one.
type world struct {
	*Store
	segments *segment.Store
	tables   *clickhouse.Store
	shipper  *clickhouse.Shipper
	server   *testenv.ClickHouseServer
	sweeper  *Sweeper
	books    *books
	org      string
	logs     map[nimbus.LogKey][]nimbus.Line
}

// books are of attempts that are all over, but for some.
type books struct {
	orgs  []string
	over  map[string]time.Time
	whole map[string]bool
}

func (b *books) Orgs(_ context.Context, after string, limit int) ([]string, error) {
	var out []string
	for _, o := range slices.Sorted(slices.Values(b.orgs)) {
		if o > after && len(out) < limit {
			out = append(out, o)
		}
	}
	return out, nil
}

func (b *books) LogOver(_ context.Context, key nimbus.LogKey) (time.Time, bool, error) {
	return b.over[key.AttemptID], b.whole[key.AttemptID], nil
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{server: testenv.ClickHouse(t), org: nimbus.NewID(nimbus.PrefixOrg, time.Now()), logs: map[nimbus.LogKey][]nimbus.Line{}}
	var err error
	if w.segments, err = segment.Open(t.TempDir(), 1<<30, segment.WithOutbox()); err != nil {
		t.Fatal(err)
	}
	if w.tables, err = clickhouse.Open(clickhouse.Config{URL: w.server.URL + "/logs"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.segments.Close(); err != nil {
			t.Error(err)
		}
		if err := w.tables.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, _, err := w.tables.Migrate(t.Context(), clickhouse.Layout{}); err != nil {
		t.Fatal(err)
	}
	w.Store = New(w.segments, w.tables, 24*time.Hour)
	log := slog.New(slog.DiscardHandler)
	w.shipper = clickhouse.NewShipper(w.tables, w.segments, log)
	w.books = &books{orgs: []string{w.org}, over: map[string]time.Time{}, whole: map[string]bool{}}
	w.sweeper = &Sweeper{Store: w.Store, Books: w.books, Outbox: w.segments, Copier: w.shipper, Log: log}
	return w
}

// write makes a log that began some time ago and is over soon after.
func (w *world) write(t *testing.T, ago time.Duration, n int) nimbus.LogKey {
	t.Helper()
	at := time.Now().Add(-ago).Truncate(time.Millisecond).UTC()
	key := nimbus.LogKey{OrgID: w.org, AttemptID: nimbus.NewID(nimbus.PrefixAttempt, at)}
	words := []string{"ERROR ", "needle ", "INFO ", "plain ", "\xff"}
	for i := range n {
		w.logs[key] = append(w.logs[key], nimbus.Line{
			Seq: int64(i + 1), At: at.Add(time.Duration(i) * time.Millisecond), Stream: nimbus.StreamStdout, Step: 1, Text: words[rand.IntN(5)] + words[rand.IntN(5)],
		})
	}
	if acked, err := w.Append(t.Context(), key, w.logs[key]); err != nil || acked != int64(n) {
		t.Fatal(acked, err)
	}
	w.books.over[key.AttemptID], w.books.whole[key.AttemptID] = at.Add(time.Minute), true
	return key
}

// ship copies all that waits.
func (w *world) ship(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { w.shipper.Run(ctx); close(ended) }()
	for {
		bytes, _, err := w.segments.Lag(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if bytes == 0 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	<-ended
}

func (w *world) sweep(t *testing.T, want int) {
	t.Helper()
	if gone, err := w.sweeper.Sweep(t.Context()); err != nil || gone != want {
		t.Errorf("the first store let go of %d logs, %v; want %d", gone, err, want)
	}
}

// local tells of how many lines of a log the first store knows.
func (w *world) localLines(t *testing.T, key nimbus.LogKey) int64 {
	t.Helper()
	n, err := w.segments.Acked(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// check reads all logs, and searches them, as of one store.
func (w *world) check(t *testing.T) {
	t.Helper()
	var ids []string
	for key, want := range w.logs {
		ids = append(ids, key.AttemptID)
		var got []nimbus.Line
		for from := int64(1); ; {
			page, err := w.Read(t.Context(), key, from, 33)
			if err != nil {
				t.Fatal(err)
			}
			if len(page) == 0 {
				break
			}
			got, from = append(got, page...), page[len(page)-1].Seq+1
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%s: %s", key.AttemptID, diff)
		}
		if n, err := w.Acked(t.Context(), key); err != nil || n != int64(len(want)) { // it is where ?tail= begins
			t.Errorf("%d lines are known of %d, %v", n, len(want), err)
		}
		if c, err := w.Counts(t.Context(), key); err != nil || c.Lines != int64(len(want)) {
			t.Errorf("counts: %+v, %v", c, err)
		}
	}
	slices.Sort(ids)
	var listed []string
	for after := ""; ; {
		page, err := w.List(t.Context(), w.org, after, 2)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		listed, after = append(listed, page...), page[len(page)-1]
	}
	if diff := cmp.Diff(ids, listed); diff != "" {
		t.Errorf("listed: %s", diff)
	}
	slices.Reverse(ids)
	for _, q := range []logs.Query{{}, {Limit: 7}, {Text: "needle", Limit: 5}, {Level: logs.LevelError, Limit: 50}, {Text: "n.*ERR", Pattern: true}, {Attempts: ids[:min(len(ids), 3)], Limit: 10}} {
		m, err := q.Compile()
		if err != nil {
			t.Fatal(err)
		}
		var want []nimbus.Line
		for _, id := range ids {
			for _, l := range w.logs[nimbus.LogKey{OrgID: w.org, AttemptID: id}] {
				if (q.Attempts == nil || slices.Contains(q.Attempts, id)) && m.Text(l.Text) && m.Line(l, logs.LevelOf(l.Text)) {
					want = append(want, l)
				}
			}
		}
		var got []nimbus.Line
		for {
			page, err := w.Search(t.Context(), w.org, q)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range page.Found {
				got = append(got, f.Line)
			}
			if page.Next == "" {
				break
			}
			q.After = page.Next
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%+v: %s", q, diff)
		}
	}
}

// TestLettingGo: logs move from the first store to the second, and are read and
// found all the time, each line once.
func TestLettingGo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write(t, time.Minute, 40)
	young := w.write(t, 10*time.Hour, 50)
	old := []nimbus.LogKey{w.write(t, 30*time.Hour, 60), w.write(t, 40*time.Hour, 70), w.write(t, 20*24*time.Hour, 80)}
	runs, unfinished := w.write(t, 50*time.Hour, 30), w.write(t, 60*time.Hour, 30)
	delete(w.books.over, runs.AttemptID)
	w.books.whole[unfinished.AttemptID] = false
	w.sweep(t, 0) // nothing was copied
	w.ship(t)
	w.check(t)
	w.sweep(t, 3)
	w.sweep(t, 0)
	for _, key := range old {
		if n := w.localLines(t, key); n != 0 {
			t.Errorf("of an old log the first store has %d lines", n)
		}
	}
	for _, key := range []nimbus.LogKey{young, runs, unfinished} {
		if w.localLines(t, key) == 0 {
			t.Errorf("%s is gone", key.AttemptID)
		}
	}
	w.check(t)
	if err := w.Delete(t.Context(), old[0]); err != nil {
		t.Fatal(err)
	}
	delete(w.logs, old[0])
	w.check(t)
}

// badFirst is a first store of which one log can't be removed, and another not be read.
type badFirst struct {
	*segment.Store

	stuck, unread string
}

var errBad = errors.New("input/output error")

func (s badFirst) Delete(ctx context.Context, key nimbus.LogKey) error {
	if key.AttemptID == s.stuck {
		return errBad
	}
	return s.Store.Delete(ctx, key)
}

func (s badFirst) Read(ctx context.Context, key nimbus.LogKey, from int64, limit int) ([]nimbus.Line, error) {
	if key.AttemptID == s.unread {
		return nil, errBad
	}
	return s.Store.Read(ctx, key, from, limit)
}

func (s badFirst) List(ctx context.Context, orgID, after string, limit int) ([]string, error) {
	if orgID == badOrg {
		return nil, errBad
	}
	return s.Store.List(ctx, orgID, after, limit)
}

const badOrg = nimbus.PrefixOrg + "_0"

// TestOneBadLogKeepsNoOther: what can't be listed, read or removed stays, and the others
// are let go of.
func TestOneBadLogKeepsNoOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stuck, unread := w.write(t, 50*time.Hour, 40), w.write(t, 45*time.Hour, 30)
	w.write(t, 40*time.Hour, 50)
	w.ship(t)
	if err := w.tables.Delete(t.Context(), unread); err != nil { // so that it is copied again
		t.Fatal(err)
	}
	w.books.orgs = append(w.books.orgs, badOrg)
	w.first = badFirst{w.segments, stuck.AttemptID, unread.AttemptID}
	w.sweep(t, 1)
	if w.sweeper.failed != 3 {
		t.Errorf("%d failures", w.sweeper.failed)
	}
	w.first = w.segments
	w.sweep(t, 1)
	w.sweep(t, 1) // it is copied now
	w.check(t)
}

// TestImportLeavesWhatIsThere: a log that only the second store has is skipped by an
// import, whether its archive is whole or cut off, and so is left as it was. What this
// import began is given up.
func TestImportLeavesWhatIsThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	old, lost := w.write(t, 40*time.Hour, 60), w.write(t, 30*time.Hour, 50)
	var archive bytes.Buffer
	if a, err := logs.Export(t.Context(), w.Store, w.org, &archive, slog.New(slog.DiscardHandler)); err != nil || a.Attempts != 2 {
		t.Fatalf("%+v, %v", a, err)
	}
	w.ship(t)
	w.sweep(t, 2)
	if err := w.Delete(t.Context(), lost); err != nil {
		t.Fatal(err)
	}
	yes := func(context.Context, string) error { return nil }
	whole := archive.Bytes()
	check := func(what string, want []nimbus.Line) {
		t.Helper()
		if n := w.localLines(t, old); n != 0 {
			t.Errorf("%s: the first store has %d lines of what the second has", what, n)
		}
		if lines, _, err := w.tables.Held(t.Context(), old); err != nil || lines != 60 {
			t.Errorf("%s: the second store has %d lines of 60, %v", what, lines, err)
		}
		if got, err := w.Read(t.Context(), lost, 1, 100); err != nil || cmp.Diff(want, got) != "" {
			t.Errorf("%s: of what was lost there are %d lines, %v", what, len(got), err)
		}
	}
	for _, n := range []int{len(whole) / 3, len(whole) / 2, len(whole) - 9} {
		if _, err := logs.Import(t.Context(), w.Store, w.org, bytes.NewReader(whole[:n]), yes); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
			t.Errorf("cut off: %v", err)
		}
		check("cut off", nil)
	}
	a, err := logs.Import(t.Context(), w.Store, w.org, bytes.NewReader(whole), yes)
	if want := (logs.Archived{Attempts: 1, Lines: 50, Skipped: 1}); err != nil || a != want {
		t.Errorf("%+v, %v", a, err)
	}
	check("whole", w.logs[lost])
	w.check(t)
	w.server.Kill()
	if _, err := logs.Import(t.Context(), w.Store, w.org, bytes.NewReader(whole), yes); nimbus.ErrorCode(err) != nimbus.CodeUnavailable {
		t.Errorf("with the second store away, nobody knows what is there: %v", err)
	}
}

// TestSecondStoreLostLines: what ClickHouse acknowledged and lost is copied again,
// before the first store lets go of it.
func TestSecondStoreLostLines(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	key := w.write(t, 30*time.Hour, 60)
	w.ship(t)
	if err := w.tables.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	w.sweep(t, 0)
	if n := w.localLines(t, key); n != 60 {
		t.Fatalf("the first store let go of what the second lost: it has %d lines", n)
	}
	w.check(t)
	if lines, _, err := w.tables.Held(t.Context(), key); err != nil || lines != 60 {
		t.Errorf("there are %d lines of 60 again, %v", lines, err)
	}
	w.sweep(t, 1)
	w.check(t)
}

// TestSecondStoreAway: what the first store has is read and found without it, and of
// the rest is said that it can't be.
func TestSecondStoreAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write(t, time.Minute, 40)
	young, old := w.write(t, 2*time.Hour, 40), w.write(t, 30*time.Hour, 60)
	w.ship(t)
	w.sweep(t, 1)
	w.server.Kill()
	if lines, err := w.Read(t.Context(), young, 1, 100); err != nil || len(lines) != 40 {
		t.Errorf("of a young log %d lines are read, %v", len(lines), err)
	}
	if lines, err := w.Read(t.Context(), old, 1, 100); nimbus.ErrorCode(err) != nimbus.CodeUnavailable {
		t.Errorf("of an old log %d lines are read, %v", len(lines), err)
	}
	for _, q := range []logs.Query{{Attempts: []string{young.AttemptID}}, {Since: time.Now().Add(-3 * time.Hour)}} {
		if page, err := w.Search(t.Context(), w.org, q); err != nil || len(page.Found) < 40 {
			t.Errorf("%+v finds %d lines, %v", q, len(page.Found), err)
		}
	}
	for _, q := range []logs.Query{{}, {Attempts: []string{young.AttemptID, old.AttemptID}}, {Since: time.Now().Add(-25 * time.Hour)}} {
		if page, err := w.Search(t.Context(), w.org, q); nimbus.ErrorCode(err) != nimbus.CodeUnavailable {
			t.Errorf("%+v finds %d lines, %v", q, len(page.Found), err)
		}
	}
	if _, err := w.sweeper.Sweep(t.Context()); err != nil {
		t.Errorf("with nothing to let go of, a sweep fails: %v", err)
	}
	if acked, err := w.Append(t.Context(), young, []nimbus.Line{{Seq: 41, At: time.Now(), Stream: nimbus.StreamStdout, Text: "more"}}); err != nil || acked != 41 {
		t.Errorf("a line is acknowledged up to %d, %v", acked, err)
	}
	if _, err := w.sweeper.Sweep(t.Context()); err != nil {
		t.Errorf("with nothing to let go of, a sweep fails: %v", err)
	}
}

// TestBothAnswerTheSame: the embedded store and ClickHouse find the same by random
// queries, in the same order.
func TestBothAnswerTheSame(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var ids []string
	for i := range 12 {
		ids = append(ids, w.write(t, time.Duration(1+i/2)*7*time.Hour, 100).AttemptID)
	}
	w.ship(t)
	texts := []string{"", "needle", "ERROR", "\xff", "INFO plain", "nothing has this"}
	patterns := []string{"n.*e", "^(ERROR|INFO) ", `\s$`, "(?i)error needle", "[^a-z]{6}", `.\xff`}
	everything := func(s logs.Searcher, q logs.Query) (out []logs.Found) {
		t.Helper()
		for {
			page, err := s.Search(t.Context(), w.org, q)
			if err != nil {
				t.Fatalf("%+v: %v", q, err)
			}
			if out = append(out, page.Found...); page.Next == "" {
				return out
			}
			q.After = page.Next
		}
	}
	for range 60 {
		q := logs.Query{Text: texts[rand.IntN(len(texts))], Limit: 20 + rand.IntN(200), Level: logs.Level(rand.IntN(5)), Step: rand.Int32N(3)}
		if rand.IntN(2) == 0 {
			q.Text, q.Pattern = patterns[rand.IntN(len(patterns))], true
		}
		if rand.IntN(3) == 0 {
			q.Attempts = []string{ids[rand.IntN(len(ids))], ids[rand.IntN(len(ids))]}
		}
		if rand.IntN(3) == 0 {
			q.Since = time.Now().Add(-time.Duration(rand.IntN(40)) * time.Hour)
		}
		if rand.IntN(3) == 0 {
			q.Until = time.Now().Add(-time.Duration(rand.IntN(40)) * time.Hour)
		}
		if diff := cmp.Diff(everything(w.segments, q), everything(w.tables, q)); diff != "" {
			t.Fatalf("%+v: %s", q, diff)
		}
	}
	for _, id := range ids {
		key := nimbus.LogKey{OrgID: w.org, AttemptID: id}
		here, err := w.segments.Counts(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		if there, err := w.tables.Counts(t.Context(), key); err != nil || cmp.Diff(here, there) != "" {
			t.Errorf("counts: %v %s", err, cmp.Diff(here, there))
		}
	}
}
