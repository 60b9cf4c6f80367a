package clickhouse

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// engine is one for all tests of the package: each has a database of its own.
var engine struct {
	once   sync.Once
	server *testenv.ClickHouseServer
	err    error
	number atomic.Int64
}

func TestMain(m *testing.M) {
	code := m.Run()
	if engine.server != nil {
		if err := engine.server.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	os.Exit(code)
}

// open returns the tables of a fresh database.
func open(t *testing.T) *Store {
	t.Helper()
	testenv.Require(t, "clickhouse")
	engine.once.Do(func() { engine.server, engine.err = testenv.StartClickHouse() })
	if engine.err != nil {
		t.Fatal(engine.err)
	}
	return openAt(t, engine.server.URL)
}

// openAt returns those of a fresh database of a server.
func openAt(t *testing.T, url string) *Store {
	t.Helper()
	s := storeAt(t, fmt.Sprintf("%s/test_%d", url, engine.number.Add(1)))
	if _, _, err := s.Migrate(t.Context(), Layout{}); err != nil {
		t.Fatal(err)
	}
	return s
}

func storeAt(t *testing.T, url string) *Store {
	t.Helper()
	s, err := Open(Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// jobStart is when the logs of tests begin: lately, or they would be over their time.
func jobStart() time.Time { return time.Now().Add(-time.Hour).Truncate(time.Second).UTC() }

func key(org string, at time.Time) nimbus.LogKey {
	return nimbus.LogKey{OrgID: org, AttemptID: nimbus.NewID(nimbus.PrefixAttempt, at)}
}

func newOrg() string { return nimbus.NewID(nimbus.PrefixOrg, time.Now()) }

// someLines are lines of every kind, from number first on.
func someLines(random *rand.Rand, first int64, n int, at time.Time) []nimbus.Line {
	words := []string{"ERROR", "WARN", "INFO", "level=debug", "build", "50%_done", `back\slash`, "'quote'", "\xff\xfe", "täst", "\ttab", "it's; DROP TABLE", "{org:UUID}", "\x00"}
	kinds := []nimbus.Stream{nimbus.StreamStdout, nimbus.StreamStderr, nimbus.StreamSystem, nimbus.StreamStep}
	out := make([]nimbus.Line, n)
	for i := range out {
		text := ""
		for range random.IntN(6) {
			text += words[random.IntN(len(words))] + " "
		}
		out[i] = nimbus.Line{
			Seq: first + int64(i), At: at.Add(time.Duration(random.Int64N(int64(time.Hour)))).Truncate(time.Microsecond), Stream: kinds[random.IntN(len(kinds))],
			Step: random.Int32N(5), Group: random.Int32N(3), Text: text + fmt.Sprint(random.IntN(1000)),
		}
	}
	return out
}

func newRandom() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

// put copies lines as the shipper does.
func put(t *testing.T, s *Store, parts ...logs.Part) {
	t.Helper()
	for _, b := range blocks(parts) {
		if err := s.insert(t.Context(), b, b.token()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLinesAreReadAsTheyWere(t *testing.T) {
	t.Parallel()
	s := open(t)
	random := newRandom()
	k := key(newOrg(), jobStart())
	shell := nimbus.LogKey{OrgID: k.OrgID, AttemptID: nimbus.NewID(nimbus.PrefixShell, jobStart())}
	want, recording := someLines(random, 1, 3000, jobStart()), someLines(random, 1, 10, jobStart())
	put(t, s, logs.Part{Key: k, Lines: want[:1000]}, logs.Part{Key: shell, Lines: recording}, logs.Part{Key: k, Lines: want[1000:]})

	var got []nimbus.Line
	for from := int64(1); ; {
		page, err := s.Read(t.Context(), k, from, 700)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		got, from = append(got, page...), page[len(page)-1].Seq+1
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("read: %s", diff)
	}
	if got, err := s.Read(t.Context(), shell, 1, 100); err != nil || cmp.Diff(recording, got) != "" {
		t.Errorf("a shell's recording: %v, %s", err, cmp.Diff(recording, got))
	}
	lines, highest, err := s.Held(t.Context(), k)
	if err != nil || lines != 3000 || highest != 3000 {
		t.Errorf("%d lines are held up to %d, %v", lines, highest, err)
	}
	counts, err := s.Counts(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(countsOf(want), counts); diff != "" {
		t.Errorf("counts: %s", diff)
	}
	if list, err := s.List(t.Context(), k.OrgID, "", 10); err != nil || len(list) != 1 || list[0] != k.AttemptID {
		t.Errorf("the org's logs are %q, %v", list, err)
	}
	// Whose it isn't, and what isn't one.
	for _, other := range []nimbus.LogKey{
		{OrgID: newOrg(), AttemptID: k.AttemptID}, {OrgID: k.OrgID, AttemptID: nimbus.PrefixShell + k.AttemptID[len(nimbus.PrefixAttempt):]}, key(k.OrgID, jobStart()),
	} {
		if got, err := s.Read(t.Context(), other, 1, 10); err != nil || len(got) != 0 {
			t.Errorf("%v has %d lines, %v", other, len(got), err)
		}
		if c, err := s.Counts(t.Context(), other); err != nil || c != (logs.Counts{}) {
			t.Errorf("%v has %+v, %v", other, c, err)
		}
	}
	if err := s.Delete(t.Context(), k); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Read(t.Context(), k, 1, 10); err != nil || len(got) != 0 {
		t.Errorf("of a removed log there are %d lines, %v", len(got), err)
	}
	if got, err := s.Read(t.Context(), shell, 1, 100); err != nil || len(got) != 10 {
		t.Errorf("of the other there are %d lines, %v", len(got), err)
	}
}

func countsOf(lines []nimbus.Line) (c logs.Counts) {
	for _, l := range lines {
		c.Lines++
		c.Bytes += int64(len(l.Text)) + 1
		c.ByLevel[logs.LevelOf(l.Text)]++
		if c.First.IsZero() || l.At.Before(c.First) {
			c.First = l.At
		}
		if l.At.After(c.Last) {
			c.Last = l.At
		}
	}
	return c
}

// TestLinesAreListed: the logs of an org come in the order of their ids, also those
// of one moment.
func TestLinesAreListed(t *testing.T) {
	t.Parallel()
	s := open(t)
	org := newOrg()
	var want []string
	var parts []logs.Part
	for i := range 40 {
		k := key(org, jobStart().Add(time.Duration(i/10)*time.Millisecond))
		want = append(want, k.AttemptID)
		parts = append(parts, logs.Part{Key: k, Lines: someLines(newRandom(), 1, 2, jobStart())})
	}
	put(t, s, parts...)
	slices.Sort(want)
	var got []string
	for after := ""; ; {
		page, err := s.List(t.Context(), org, after, 7)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		got, after = append(got, page...), page[len(page)-1]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestRepeatedBlocksCountOnce: the same block again is dropped, of lines and of what
// is counted; the same lines in another block are read and counted once.
func TestRepeatedBlocksCountOnce(t *testing.T) {
	t.Parallel()
	s := open(t)
	k := key(newOrg(), jobStart())
	want := someLines(newRandom(), 1, 500, jobStart())
	b := blocks([]logs.Part{{Key: k, Lines: want}})[0]
	for range 3 {
		if err := s.insert(t.Context(), b, b.token()); err != nil {
			t.Fatal(err)
		}
	}
	if raw := rawCount(t, s, "log_lines", "count()"); raw != 500 {
		t.Errorf("there are %d rows of 500 lines that were written three times", raw)
	}
	if n := rawCount(t, s, "log_stats", "sum(lines)"); n != 500 {
		t.Errorf("%d lines are counted", n)
	}
	put(t, s, logs.Part{Key: k, Lines: want[100:200]}) // another block
	if raw := rawCount(t, s, "log_lines", "count()"); raw != 600 {
		t.Fatalf("there are %d rows: is the token of the content?", raw)
	}
	got, err := s.Read(t.Context(), k, 1, 1000)
	if err != nil || cmp.Diff(want, got) != "" {
		t.Errorf("read: %v %s", err, cmp.Diff(want, got))
	}
	if c, err := s.Counts(t.Context(), k); err != nil || cmp.Diff(countsOf(want), c) != "" {
		t.Errorf("counts: %v %s", err, cmp.Diff(countsOf(want), c))
	}
	page, err := s.Search(t.Context(), k.OrgID, logs.Query{})
	if err != nil || len(page.Found) != 500 {
		t.Errorf("a search finds %d lines, %v", len(page.Found), err)
	}
	if err := s.conn.Exec(t.Context(), "OPTIMIZE TABLE "+s.table("log_lines")+" FINAL"); err != nil {
		t.Fatal(err)
	}
	if raw := rawCount(t, s, "log_lines", "count()"); raw != 500 {
		t.Errorf("merged there are %d rows", raw)
	}
}

// rawCount asks past the one way to the rows.
func rawCount(t *testing.T, s *Store, table, what string) (n uint64) {
	t.Helper()
	if err := s.conn.QueryRow(t.Context(), "SELECT "+what+" FROM "+s.table(table)).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestLinesOverTheirTimeAreGone(t *testing.T) {
	t.Parallel()
	s := open(t)
	days := map[string]int{}
	s.retention = func(_ context.Context, org string) (time.Duration, error) {
		return time.Duration(days[org]) * 24 * time.Hour, nil
	}
	old := jobStart().Add(-20 * 24 * time.Hour)
	kept, gone, forEver := key(newOrg(), old), key(newOrg(), old), key(newOrg(), old.Add(-10*365*24*time.Hour))
	days[kept.OrgID], days[gone.OrgID] = 30, 10
	for _, k := range []nimbus.LogKey{kept, gone, forEver} {
		put(t, s, logs.Part{Key: k, Lines: someLines(newRandom(), 1, 5, old)})
	}
	for k, want := range map[nimbus.LogKey]int{kept: 5, gone: 0, forEver: 5} {
		got, err := s.Read(t.Context(), k, 1, 10)
		if err != nil || len(got) != want {
			t.Errorf("%d lines are read of %d days old ones that are kept for %d days, %v", len(got), 20, days[k.OrgID], err)
		}
	}
	// The engine itself drops the parts.
	for range 100 {
		if err := s.conn.Exec(t.Context(), "OPTIMIZE TABLE "+s.table("log_lines")+" FINAL"); err != nil {
			t.Fatal(err)
		}
		if rawCount(t, s, "log_lines", "count()") == 10 {
			return
		}
	}
	t.Errorf("%d rows are left", rawCount(t, s, "log_lines", "count()"))
}

func TestLifetime(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	at := time.Date(2026, 3, 4, 23, 0, 0, 0, time.UTC).UnixMilli()
	for _, c := range []struct {
		keep  time.Duration
		class uint16
		want  string
	}{
		{0, 0, "2149-06-06"}, {time.Hour, 7, "2026-03-05"}, {7 * day, 7, "2026-03-11"}, {8 * day, 30, "2026-03-12"},
		{90 * day, 90, "2026-06-02"}, {2000 * day, 0, "2031-08-25"}, {100_000 * day, 0, "2149-06-06"},
	} {
		class, expires := lifetime(at, c.keep)
		if got := expires.Format(time.DateOnly); got != c.want || class != c.class {
			t.Errorf("kept for %v: class %d, until %s; want %d, %s", c.keep, class, got, c.class, c.want)
		}
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	for _, url := range []string{
		"", "clickhouse:8123", "tcp://clickhouse:9000", "http://user:secret@clickhouse/nimbus", "http://clickhouse/nimbus?password=secret",
		"http://clickhouse/nim`bus", "http://clickhouse/a/b", "http://clickhouse/" + strings.Repeat("x", 65),
	} {
		_, err := Open(Config{URL: url})
		if nimbus.ErrorCode(err) != nimbus.CodeInvalid {
			t.Errorf("%q: %v", url, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: the error tells the password", url)
		}
	}
	for url, want := range map[string]string{
		"http://clickhouse": "clickhouse:8123", "https://clickhouse/logs": "clickhouse:8443", "https://[::1]:1/logs": "[::1]:1",
	} {
		o, _, err := Config{URL: url}.options()
		if err != nil || o.Addr[0] != want {
			t.Errorf("%q: %v, %v", url, o, err)
		}
	}
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
