package clickhouse

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
)

// corpus is logs of which the test knows every line.
type corpus struct {
	org   string
	parts []logs.Part // newest first
}

// newCorpus writes logs that began at different times, some at one moment.
func newCorpus(t *testing.T, s *Store, random *rand.Rand, n, lines int) *corpus {
	t.Helper()
	c := &corpus{org: newOrg()}
	for i := range n {
		at := jobStart().Add(-time.Duration(i/2) * 7 * time.Hour)
		c.parts = append(c.parts, logs.Part{Key: key(c.org, at), Lines: someLines(random, 1, lines, at)})
	}
	slices.SortFunc(c.parts, func(a, b logs.Part) int { return -strings.Compare(a.Key.AttemptID, b.Key.AttemptID) })
	put(t, s, c.parts...)
	// Recordings of shells are in no search.
	put(t, s, logs.Part{Key: nimbus.LogKey{OrgID: c.org, AttemptID: nimbus.NewID(nimbus.PrefixShell, jobStart())}, Lines: someLines(random, 1, 100, jobStart())})
	return c
}

// find is what a query has to find.
func (c *corpus) find(t *testing.T, q logs.Query) (out []logs.Found) {
	t.Helper()
	m, err := q.Compile()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range c.parts {
		if q.Attempts != nil && !slices.Contains(q.Attempts, p.Key.AttemptID) {
			continue
		}
		for _, l := range p.Lines {
			if level := logs.LevelOf(l.Text); m.Line(l, level) && m.Text(l.Text) {
				out = append(out, logs.Found{Key: p.Key, Line: l, Level: level})
			}
		}
	}
	return out
}

// all is every page of a query.
func all(t *testing.T, s logs.Searcher, org string, q logs.Query) (out []logs.Found) {
	t.Helper()
	for pages := 0; ; pages++ {
		page, err := s.Search(t.Context(), org, q)
		if err != nil {
			t.Fatalf("%+v: %v", q, err)
		}
		if q.Limit > 0 && len(page.Found) > q.Limit {
			t.Fatalf("%+v: a page has %d lines", q, len(page.Found))
		}
		out = append(out, page.Found...)
		if page.Next == "" {
			return out
		}
		if page.Next == q.After || pages > 100_000 {
			t.Fatalf("%+v goes on for ever", q)
		}
		q.After = page.Next
	}
}

func randomQuery(random *rand.Rand, c *corpus) logs.Query {
	var q logs.Query
	one := func(n int) bool { return random.IntN(n) == 0 }
	switch random.IntN(4) {
	case 0:
		q.Text = []string{"ERROR", "50%_", `back\slash`, "'quote'", "\xff", "täs", "\t", "it's; DROP", "{org:UUID}", "\x00", "7"}[random.IntN(11)]
	case 1:
		q.Pattern = true
		q.Text = []string{"ERR.R", `\d{3}$`, "(?i)error", `^(INFO|WARN) `, "t.st", "b.ck\\\\", `'quote'\s+\S`, `.*`, `\x00`, `[^a-z ]{6}`, `.\xfe`}[random.IntN(11)]
	}
	if one(3) {
		for range 1 + random.IntN(3) {
			q.Attempts = append(q.Attempts, c.parts[random.IntN(len(c.parts))].Key.AttemptID)
		}
	}
	if one(4) {
		q.Step = random.Int32N(5)
	}
	if one(3) {
		q.Streams = [][]nimbus.Stream{{nimbus.StreamStderr}, {nimbus.StreamStdout, nimbus.StreamStep}, {"none"}}[random.IntN(3)]
	}
	if one(3) {
		q.Level = logs.Level(random.IntN(5))
	}
	begin := c.parts[len(c.parts)-1].Lines[0].At.Add(-time.Hour)
	span := int64(jobStart().Add(time.Hour).Sub(begin))
	if one(4) {
		q.Since = begin.Add(time.Duration(random.Int64N(span)))
	}
	if one(4) {
		q.Until = begin.Add(time.Duration(random.Int64N(span)))
	}
	if q.Text != "" && one(2) {
		q.Limit = 10 + random.IntN(60)
	}
	return q
}

// TestSearchFindsTheSame: what random queries find, page by page, is what looking at
// every line finds, in the same order.
func TestSearchFindsTheSame(t *testing.T) {
	t.Parallel()
	s := open(t)
	random := newRandom()
	c := newCorpus(t, s, random, 12, 300)
	newCorpus(t, s, random, 3, 50)                                             // of another org
	put(t, s, logs.Part{Key: c.parts[3].Key, Lines: c.parts[3].Lines[50:250]}) // twice
	for range 50 {
		q := randomQuery(random, c)
		if diff := cmp.Diff(c.find(t, q), all(t, s, c.org, q)); diff != "" {
			t.Fatalf("%+v: %s", q, diff)
		}
	}
}

// TestSearchGoesOn: what is more than one page looks at goes on where it ended.
func TestSearchGoesOn(t *testing.T) {
	t.Parallel()
	s := open(t)
	c := newCorpus(t, s, newRandom(), 6, 10)
	for _, limit := range []int{1, 7, 10, 59, 60, 61} {
		q := logs.Query{Limit: limit}
		if diff := cmp.Diff(c.find(t, q), all(t, s, c.org, q)); diff != "" {
			t.Errorf("pages of %d: %s", limit, diff)
		}
	}
	// Long lines end a page by their bytes.
	org := newOrg()
	k := key(org, jobStart())
	lines := someLines(newRandom(), 1, 100, jobStart())
	for i := range lines {
		lines[i].Text = strings.Repeat("x", nimbus.MaxLineBytes)
	}
	put(t, s, logs.Part{Key: k, Lines: lines})
	page, err := s.Search(t.Context(), org, logs.Query{})
	if err != nil || len(page.Found) > logs.MaxPageText/nimbus.MaxLineBytes || page.Next == "" {
		t.Errorf("a page has %d long lines and goes on at %q, %v", len(page.Found), page.Next, err)
	}
	if got := all(t, s, org, logs.Query{}); len(got) != 100 {
		t.Errorf("in all there are %d", len(got))
	}
}

// hostile are values that would be more than values in text that is put together.
func hostile() []string {
	return []string{
		`' OR 1=1 --`, `') OR org_id != org_id OR ('`, `\' OR 1=1 --`, `"; DROP TABLE log_lines; --`, "x\x00' OR 1 --", `{org:UUID}`, `%' OR '%`, "`", "/*", `\`, `\\'`, "a' UNION ALL SELECT * FROM log_lines --",
	}
}

// TestNothingOfAnotherOrgIsRead tries to break out of each filter.
func TestNothingOfAnotherOrgIsRead(t *testing.T) {
	t.Parallel()
	s := open(t)
	random := newRandom()
	mine, others := newCorpus(t, s, random, 2, 20), newCorpus(t, s, random, 2, 20)
	theirs := others.parts[0].Key
	check := func(what string, found []logs.Found, err error) {
		t.Helper()
		if err != nil && nimbus.ErrorCode(err) != nimbus.CodeInvalid {
			t.Errorf("%s: %v", what, err)
		}
		for _, f := range found {
			if f.Key.OrgID != mine.org || !slices.ContainsFunc(mine.parts, func(p logs.Part) bool { return p.Key == f.Key && slices.Contains(p.Lines, f.Line) }) {
				t.Fatalf("%s: read %+v", what, f)
			}
		}
	}
	for _, h := range hostile() {
		for what, q := range map[string]logs.Query{
			"text": {Text: h}, "pattern": {Text: h, Pattern: true}, "pattern of all": {Text: ".*|" + h, Pattern: true},
			"attempt": {Attempts: []string{h}}, "attempt and more": {Attempts: []string{mine.parts[0].Key.AttemptID + h}},
			"attempt of another org": {Attempts: []string{theirs.AttemptID}, Text: h},
			"stream":                 {Streams: []nimbus.Stream{nimbus.Stream(h)}}, "after": {After: h}, "after and more": {After: theirs.AttemptID + ":1" + h},
			"after of another org": {After: theirs.AttemptID + ":1", Text: h},
		} {
			page, err := s.Search(t.Context(), mine.org, q)
			check(what+" "+h, page.Found, err)
		}
		for _, org := range []string{h, mine.org + h, nimbus.PrefixOrg + "_" + strings.Repeat("z", 26)} {
			page, err := s.Search(t.Context(), org, logs.Query{})
			if nimbus.ErrorCode(err) != nimbus.CodeInvalid || len(page.Found) > 0 {
				t.Errorf("org %q: %d lines, %v", org, len(page.Found), err)
			}
			for _, k := range []nimbus.LogKey{{OrgID: org, AttemptID: theirs.AttemptID}, {OrgID: mine.org, AttemptID: h}, {OrgID: mine.org, AttemptID: theirs.AttemptID + h}} {
				lines, err := s.Read(t.Context(), k, 1, 10)
				_, _, errHeld := s.Held(t.Context(), k)
				_, errCounts := s.Counts(t.Context(), k)
				_, errList := s.List(t.Context(), org, "", 10)
				if len(lines) > 0 || err == nil || errHeld == nil || errCounts == nil || errList == nil {
					t.Errorf("%v: %d lines, %v %v %v %v", k, len(lines), err, errHeld, errCounts, errList)
				}
			}
		}
		list, err := s.List(t.Context(), mine.org, h, 10)
		if nimbus.ErrorCode(err) != nimbus.CodeInvalid {
			t.Errorf("list after %q: %q, %v", h, list, err)
		}
	}
	page, err := s.Search(t.Context(), mine.org, logs.Query{Attempts: []string{theirs.AttemptID}})
	if err != nil || len(page.Found) > 0 {
		t.Errorf("another org's log by name: %d lines, %v", len(page.Found), err)
	}
	if list, err := s.List(t.Context(), mine.org, "", 10); err != nil || len(list) != 2 {
		t.Errorf("an org lists %q, %v", list, err)
	}
	if n := rawCount(t, s, "log_lines", "count()"); n != 4*20+2*100 {
		t.Errorf("after all that there are %d rows", n)
	}
}

// recordingConn remembers what is asked of the engine.
type recordingConn struct {
	driver.Conn

	mu         sync.Mutex
	statements []string
}

func (c *recordingConn) keep(statement string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.statements = append(c.statements, statement)
}

func (c *recordingConn) Query(ctx context.Context, statement string, args ...any) (driver.Rows, error) {
	c.keep(statement)
	return c.Conn.Query(ctx, statement, args...)
}

func (c *recordingConn) QueryRow(ctx context.Context, statement string, args ...any) driver.Row {
	c.keep(statement)
	return c.Conn.QueryRow(ctx, statement, args...)
}

func (c *recordingConn) Exec(ctx context.Context, statement string, args ...any) error {
	c.keep(statement)
	return c.Conn.Exec(ctx, statement, args...)
}

// TestEveryQueryBindsTheOrg: whatever is asked of a log or of an org's logs, the first
// condition of each statement is the org; and no statement is made anywhere else than in
// query.go, but those of the tables themselves (schema.go) and inserts.
func TestEveryQueryBindsTheOrg(t *testing.T) {
	t.Parallel()
	s := open(t)
	c := newCorpus(t, s, newRandom(), 4, 10)
	k := c.parts[0].Key
	put(t, s, logs.Part{Key: k, Lines: c.parts[0].Lines[:5]}) // twice: counting asks once more
	conn := &recordingConn{Conn: s.conn}
	s.conn = conn
	_, err := s.Read(t.Context(), k, 1, 10)
	_, _, err2 := s.Held(t.Context(), k)
	_, err3 := s.Counts(t.Context(), k)
	_, err4 := s.List(t.Context(), c.org, k.AttemptID, 10)
	_, err5 := s.Parked(t.Context(), k)
	err6 := s.Delete(t.Context(), c.parts[3].Key)
	for _, q := range []logs.Query{
		{}, {Text: "'"}, {Text: "a.*", Pattern: true, Limit: 3}, {Attempts: []string{k.AttemptID}, Level: logs.LevelWarn, Step: 1, Streams: []nimbus.Stream{nimbus.StreamStdout}},
		{Since: jobStart(), Until: time.Now(), After: logs.Position{AttemptID: k.AttemptID, Seq: 3}.String()},
	} {
		all(t, s, c.org, q)
	}
	if err := errors.Join(err, err2, err3, err4, err5, err6); err != nil {
		t.Fatal(err)
	}
	bound := regexp.MustCompile("^(SELECT .+|DELETE) FROM `\\w+`\\.log_(lines|stats|parked) WHERE org_id = \\{org:UUID\\}( |$)")
	if len(conn.statements) < 15 {
		t.Errorf("only %d statements were seen", len(conn.statements))
	}
	for _, statement := range conn.statements {
		if !bound.MatchString(statement) || strings.Contains(statement, " OR org_id") || strings.Count(statement, " FROM ") != 1 {
			t.Errorf("not of one org: %s", statement)
		}
	}
	sources, err := filepath.Glob("*.go")
	if err != nil || len(sources) < 8 {
		t.Fatal(sources, err)
	}
	asks := regexp.MustCompile(`conn\.(Query|QueryRow|Select|Exec|AsyncInsert)\(`)
	for _, name := range sources {
		source, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if name != "query.go" && name != "schema.go" && !strings.HasSuffix(name, "_test.go") && asks.Match(source) {
			t.Errorf("%s asks by itself", name)
		}
	}
}

// TestSearchGoesOnAfterItsHours: a page plans so many hours, and says that there are more.
func TestSearchGoesOnAfterItsHours(t *testing.T) {
	t.Parallel()
	s := open(t)
	c := newCorpus(t, s, newRandom(), 12, 10) // in six hours
	on := logs.Part{Key: key(c.org, jobStart().Add(-100*time.Hour).Truncate(time.Hour)), Lines: someLines(newRandom(), 1, 10, jobStart())}
	put(t, s, on) // it began with an hour
	c.parts = append(c.parts, on)
	for _, s.windows = range []int{1, 2, 5, 7, 8} {
		for _, q := range []logs.Query{{}, {Limit: 7}, {Text: "no line has this"}} {
			if diff := cmp.Diff(c.find(t, q), all(t, s, c.org, q)); diff != "" {
				t.Errorf("%d hours, %+v: %s", s.windows, q, diff)
			}
		}
	}
	s.windows = 2
	if page, err := s.Search(t.Context(), c.org, logs.Query{Text: "no line has this"}); err != nil || page.Next == "" {
		t.Errorf("after two hours of seven: %+v, %v", page, err)
	}
}

func TestSearchTooLarge(t *testing.T) {
	t.Parallel()
	s := open(t)
	c := newCorpus(t, s, newRandom(), 1, 10)
	attempts := slices.Repeat([]string{c.parts[0].Key.AttemptID}, maxSearchAttempts+1)
	if _, err := s.Search(t.Context(), c.org, logs.Query{Attempts: attempts}); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
		t.Errorf("too many attempts: %v", err)
	}
	if got := all(t, s, c.org, logs.Query{Attempts: attempts[:maxSearchAttempts]}); len(got) != 10 {
		t.Errorf("as many attempts as may be: %d lines", len(got))
	}
	if page, err := s.Search(t.Context(), c.org, logs.Query{Attempts: []string{}}); err != nil || len(page.Found) != 0 {
		t.Errorf("of no attempt: %d lines, %v", len(page.Found), err)
	}
}
