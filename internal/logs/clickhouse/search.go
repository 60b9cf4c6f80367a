package clickhouse

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
)

// Bounds of one page of a search.
const (
	// windowBytes is about how much text one query looks at, hours of it together.
	windowBytes = 512 << 20
	// scanBytes and scanTime are about how much a page looks at, and for how long.
	scanBytes = 4 << 30
	scanTime  = 10 * time.Second
	// maxWindows bounds how many hours are planned at once: a year.
	maxWindows = 366 * 24
	// maxSearchAttempts bounds of how many attempts a query may name.
	maxSearchAttempts = 1000
)

// lastSeq is after all lines of a log.
const lastSeq = 1<<63 - 1

// window is a time of which logs that began in it are looked at together.
type window struct {
	from, until int64 // milliseconds; until is exclusive
	bytes       int64
}

// Search implements logs.Searcher. Codes: invalid, too_large, unavailable.
func (s *Store) Search(ctx context.Context, orgID string, q logs.Query) (logs.Page, error) {
	var page logs.Page
	m, err := q.Compile()
	if err != nil {
		return page, err
	}
	search := search{store: s, m: m}
	if search.org, err = orgUUID(orgID); err != nil {
		return page, err
	}
	search.orgID = orgID
	if search.ids, err = searchIDs(orgID, m.Query.Attempts); err != nil {
		return page, err
	}
	if m.Query.Attempts != nil && len(search.ids) == 0 {
		return page, nil
	}
	windows, further, err := search.plan(ctx)
	if err != nil {
		return page, readable("search", err)
	}
	began := time.Now()
	for i, w := range windows {
		if err := search.look(ctx, w, &page); err != nil {
			return page, readable("search", err)
		}
		page.Scanned += w.bytes
		if page.Next != "" {
			return page, nil
		}
		more := i+1 < len(windows) && (page.Scanned >= scanBytes || time.Since(began) > scanTime)
		if more || i+1 == len(windows) && further {
			page.Next = logs.Position{AttemptID: nimbus.FirstID(nimbus.PrefixAttempt, time.UnixMilli(w.from)), Seq: lastSeq}.String()
			return page, nil
		}
	}
	return page, nil
}

// searchIDs are the attempts that a query names, as the tables have them.
func searchIDs(orgID string, attempts []string) ([]string, error) {
	if len(attempts) > maxSearchAttempts {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "a search is in all logs, or in those of at most %d attempts", maxSearchAttempts)
	}
	ids := make([]string, 0, len(attempts))
	for _, a := range attempts {
		id, err := identify(nimbus.LogKey{OrgID: orgID, AttemptID: a})
		if err != nil {
			return nil, err
		}
		if id.kind == kinds[nimbus.PrefixAttempt] {
			ids = append(ids, "'"+id.log.String()+"'")
		}
	}
	return ids, nil
}

// search is one page's.
type search struct {
	store *Store
	org   uuid.UUID
	orgID string
	ids   []string
	m     *logs.Matcher
}

// query begins one of what the search is in.
func (s *search) query(table string) *query {
	q := s.store.newQuery(table, s.org).attempts()
	if len(s.ids) > 0 {
		q.and("log_id IN {attempts:Array(UUID)}", "attempts", "["+strings.Join(s.ids, ",")+"]")
	}
	return q
}

// plan is the hours that have text, newest first, those together of which one query
// can look at all; further says that there may be more of them.
func (s *search) plan(ctx context.Context) (out []window, further bool, err error) {
	const hour = int64(time.Hour / time.Millisecond)
	q := s.query("log_stats")
	if p := s.m.After; p.AttemptID != "" {
		id, err := identify(nimbus.LogKey{OrgID: s.orgID, AttemptID: p.AttemptID})
		if err != nil {
			return nil, false, err
		}
		// What is after it in its hour is not planned again: pages go on, however few hours one has.
		q.andInt("started_at <= fromUnixTimestamp64Milli({after:Int64})", "after", id.started).
			and("(started_at, UUIDToNum(log_id)) <= (fromUnixTimestamp64Milli({after:Int64}), UUIDToNum({after_log:UUID}))", "after_log", id.log.String())
	}
	q.then("GROUP BY h ORDER BY h DESC LIMIT %d", s.store.windows)
	hours := 0
	err = q.rows(ctx, "intDiv(toUnixTimestamp64Milli(started_at), 3600000) AS h, sum(bytes)", func(rows driver.Rows) (bool, error) {
		var (
			h     int64
			bytes uint64
		)
		if err := rows.Scan(&h, &bytes); err != nil {
			return false, err
		}
		hours++
		if last := len(out) - 1; last >= 0 && out[last].bytes+int64(bytes) <= windowBytes {
			out[last].from, out[last].bytes = h*hour, out[last].bytes+int64(bytes)
		} else {
			out = append(out, window{from: h * hour, until: (h + 1) * hour, bytes: int64(bytes)})
		}
		return true, nil
	})
	return out, hours == s.store.windows, err
}

// errFull says that a page has as much text as it may.
var errFull = errors.New("the page is full")

// look adds what it finds in a window, up to what a page may have. The page has a
// Next then.
func (s *search) look(ctx context.Context, w window, page *logs.Page) error {
	after := s.m.After
	if n := len(page.Found); n > 0 { // windows are one after the other
		after = positionOf(page.Found[n-1])
	}
	for {
		want := s.m.Query.Limit - len(page.Found)
		// One more than is wanted says whether there is more. What came twice takes
		// the place of others: then it is asked again.
		got, last, err := s.ask(ctx, w, after, want+1, page)
		switch {
		case errors.Is(err, errFull) || err == nil && len(page.Found) > s.m.Query.Limit:
			if len(page.Found) > s.m.Query.Limit {
				page.Found = page.Found[:s.m.Query.Limit]
			}
			page.Next = positionOf(page.Found[len(page.Found)-1]).String()
			return nil
		case err != nil || got <= want:
			return err
		}
		after = last
	}
}

func positionOf(f logs.Found) logs.Position {
	return logs.Position{AttemptID: f.Key.AttemptID, Seq: f.Line.Seq}
}

// ask runs one query for up to limit rows after a position, and says how many there
// were and where they ended.
func (s *search) ask(ctx context.Context, w window, after logs.Position, limit int, page *logs.Page) (rows int, last logs.Position, err error) {
	last = after
	text := 0
	for _, f := range page.Found {
		text += len(f.Line.Text)
	}
	q := s.lines(w, after).then("ORDER BY started_at DESC, UUIDToNum(log_id) DESC, seq LIMIT %d", limit)
	err = q.rows(ctx, "log_id, CAST(level, 'Int8'), "+lineColumns, func(r driver.Rows) (bool, error) {
		var (
			log   uuid.UUID
			level int8
		)
		l, err := scanLine(r, &log, &level)
		if err != nil {
			return false, err
		}
		rows++
		f := logs.Found{Key: nimbus.LogKey{OrgID: s.orgID, AttemptID: attemptOf(log)}, Line: l, Level: logs.Level(level)}
		if at := positionOf(f); at == last {
			return true, nil // it came twice
		} else {
			last = at
		}
		if !s.m.Text(l.Text) { // of text that is no UTF-8, patterns are asked here
			return true, nil
		}
		page.Found = append(page.Found, f)
		if text += len(l.Text); text >= logs.MaxPageText {
			return false, errFull
		}
		return true, nil
	})
	return rows, last, err
}

// lines is the query of the lines in a window that are wanted.
func (s *search) lines(w window, after logs.Position) *query {
	q := s.query("log_lines").
		andInt("started_at >= fromUnixTimestamp64Milli({from:Int64})", "from", w.from).
		andInt("started_at < fromUnixTimestamp64Milli({until:Int64})", "until", w.until)
	if after.AttemptID != "" {
		id, err := identify(nimbus.LogKey{OrgID: s.orgID, AttemptID: after.AttemptID})
		if err == nil { // a position is of an attempt
			q.andInt("started_at <= fromUnixTimestamp64Milli({after_ms:Int64})", "after_ms", id.started).
				andInt("((started_at, UUIDToNum(log_id)) < (fromUnixTimestamp64Milli({after_ms:Int64}), UUIDToNum({after:UUID})) OR log_id = {after:UUID} AND seq > {after_seq:Int64})", "after_seq", after.Seq).
				bind("after", id.log.String())
		}
	}
	want := s.m.Query
	if want.Step > 0 {
		q.andInt("step = {step:Int64}", "step", int64(want.Step))
	}
	if len(want.Streams) > 0 {
		q.and("has({streams:Array(Int8)}, CAST(stream, 'Int8'))", "streams", streamNumbers(want.Streams))
	}
	if want.Level > logs.LevelNone {
		q.andInt("CAST(level, 'Int8') >= {level:Int64}", "level", int64(want.Level))
	}
	if !want.Since.IsZero() {
		q.andInt("at >= fromUnixTimestamp64Micro({since:Int64})", "since", ceilMicro(want.Since))
	}
	if !want.Until.IsZero() {
		q.andInt("at < fromUnixTimestamp64Micro({before:Int64})", "before", ceilMicro(want.Until))
	}
	if want.Text != "" && want.Pattern {
		// The engine's RE2 takes what is no UTF-8 for no character at all.
		q.andText("(match(text, unhex({text:String})) OR NOT isValidUTF8(text))", "text", want.Text)
	} else if want.Text != "" {
		q.andText("position(text, unhex({text:String})) > 0", "text", want.Text)
	}
	return q
}

// ceilMicro is the first whole microsecond that is not before a time: lines are of
// whole ones.
func ceilMicro(t time.Time) int64 {
	us := clampMicro(t.UnixMicro())
	if t.Nanosecond()%1000 != 0 {
		us++
	}
	return us
}

// streamNumbers are the streams as an array; what is no stream is in no line.
func streamNumbers(names []nimbus.Stream) string {
	numbers := []string{}
	for n, stream := range streams {
		for _, name := range names {
			if name == stream && n > 0 {
				numbers = append(numbers, strconv.Itoa(n))
			}
		}
	}
	return "[" + strings.Join(numbers, ",") + "]"
}
