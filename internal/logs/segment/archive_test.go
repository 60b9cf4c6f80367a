package segment_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
	"github.com/nimbus-ci/nimbus/internal/logs/logstest"
	"github.com/nimbus-ci/nimbus/internal/logs/segment"
)

// newStore is an empty one.
func newStore(t *testing.T) *segment.Store {
	t.Helper()
	s, err := segment.Open(t.TempDir(), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// TestArchive: an org's logs come back as they were, where there are none; what is cut
// off, changed or another org's is refused, and leaves no half a log.
func TestArchive(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	from, key, other := newStore(t), logstest.Key(), logstest.Key()
	second := nimbus.LogKey{OrgID: key.OrgID, AttemptID: nimbus.NewID(nimbus.PrefixAttempt, time.Now().Add(time.Second))}
	for k, n := range map[nimbus.LogKey]int64{key: 2500, second: 3, other: 7} {
		if _, err := from.Append(ctx, k, logstest.Lines(1, n)); err != nil {
			t.Fatal(err)
		}
	}
	var archive bytes.Buffer
	if a, err := logs.Export(ctx, from, key.OrgID, &archive, slog.New(slog.DiscardHandler)); err != nil || a.Attempts != 2 || a.Lines != 2503 {
		t.Fatalf("%+v, %v", a, err)
	}
	yes := func(context.Context, string) error { return nil }
	whole := archive.Bytes()
	to := newStore(t)
	if _, err := to.Append(ctx, second, otherLines(1)); err != nil {
		t.Fatal(err)
	}
	a, err := logs.Import(ctx, to, key.OrgID, bytes.NewReader(whole), yes)
	if want := (logs.Archived{Attempts: 1, Lines: 2500, Skipped: 1}); err != nil || a != want {
		t.Errorf("%+v, %v", a, err)
	}
	got, err := to.Read(ctx, key, 1, 1<<20)
	if diff := cmp.Diff(logstest.Lines(1, 2500), got); err != nil || diff != "" {
		t.Errorf("%v %.1000s", err, diff)
	}
	if n, err := to.Acked(ctx, second); err != nil || n != 1 {
		t.Errorf("what was there has %d lines, %v", n, err)
	}
	if a, err := logs.Import(ctx, newStore(t), key.OrgID, bytes.NewReader(append(bytes.Clone(whole), whole...)), yes); nimbus.ErrorCode(err) != nimbus.CodeInvalid || a.Lines != 2503 {
		t.Errorf("two archives in one: %+v, %v", a, err)
	}
	for name, b := range map[string][]byte{"no end": whole[:len(whole)-9], "half": whole[:len(whole)/2], "empty": nil, "changed": changed(whole, len(whole)/2)} {
		to := newStore(t)
		if a, err := logs.Import(ctx, to, key.OrgID, bytes.NewReader(b), yes); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
		if n, err := to.Acked(ctx, key); err != nil || n != 0 && n != 2500 {
			t.Errorf("%s: a log of %d lines is left, %v", name, n, err)
		}
	}
	if _, err := logs.Import(ctx, newStore(t), other.OrgID, bytes.NewReader(whole), yes); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
		t.Errorf("another org's: %v", err)
	}
	refused, no := newStore(t), errors.New("no")
	if _, err := logs.Import(ctx, refused, key.OrgID, bytes.NewReader(whole), func(context.Context, string) error { return no }); !errors.Is(err, no) {
		t.Errorf("refused: %v", err)
	}
	if n, err := refused.Acked(ctx, key); err != nil || n != 0 {
		t.Errorf("what was refused has %d lines, %v", n, err)
	}
}

// otherLines are not those of any archive.
func otherLines(n int64) []nimbus.Line {
	lines := logstest.Lines(1, n)
	for i := range lines {
		lines[i].Text += " of another"
	}
	return lines
}

// TestImportGoesOn: a log that ends too early, as after an import that was killed, goes
// on where it ends; not one that has other lines, or that somebody may write; and what
// was here stays when the archive breaks off.
func TestImportGoesOn(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	open := func(key nimbus.LogKey, lines []nimbus.Line) *segment.Store {
		s := newStore(t)
		if _, err := s.Append(ctx, key, lines); err != nil {
			t.Fatal(err)
		}
		return s
	}
	key := logstest.Key()
	var archive bytes.Buffer
	if _, err := logs.Export(ctx, open(key, logstest.Lines(1, 5000)), key.OrgID, &archive, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	whole := archive.Bytes()
	conflict := func(context.Context, string) error { return nimbus.Errorf(nimbus.CodeConflict, "a host writes it") }
	yes := func(context.Context, string) error { return nil }
	for name, c := range map[string]struct {
		here    []nimbus.Line
		archive []byte
		allowed func(context.Context, string) error
		want    logs.Archived
		lines   int64
		code    nimbus.Code
	}{
		"in a chunk's midst": {logstest.Lines(1, 1234), whole, yes, logs.Archived{Attempts: 1, Lines: 3766}, 5000, ""},
		"between two chunks": {logstest.Lines(1, 2000), whole, yes, logs.Archived{Attempts: 1, Lines: 3000}, 5000, ""},
		"whole":              {logstest.Lines(1, 5000), whole, yes, logs.Archived{Skipped: 1}, 5000, ""},
		"longer":             {logstest.Lines(1, 6000), whole, yes, logs.Archived{Skipped: 1}, 6000, ""},
		"other lines":        {otherLines(1234), whole, yes, logs.Archived{Skipped: 1}, 1234, ""},
		"somebody writes it": {logstest.Lines(1, 1234), whole, conflict, logs.Archived{Skipped: 1}, 1234, ""},
		"broken off before":  {logstest.Lines(1, 4999), whole[:len(whole)/2], yes, logs.Archived{Skipped: 1}, 4999, nimbus.CodeInvalid},
		"broken off later":   {logstest.Lines(1, 1), whole[:len(whole)/2], yes, logs.Archived{Attempts: 1}, 0, nimbus.CodeInvalid},
	} {
		to := open(key, c.here)
		a, err := logs.Import(ctx, to, key.OrgID, bytes.NewReader(c.archive), c.allowed)
		n, readErr := to.Acked(ctx, key)
		if c.lines == 0 {
			c.want.Lines, c.lines = n-1, max(n, 2)
		}
		if (err == nil) != (c.code == "") || err != nil && nimbus.ErrorCode(err) != c.code || a != c.want || n != c.lines || readErr != nil {
			t.Errorf("%s: %+v, want %+v; %d lines, want %d; %v, %v", name, a, c.want, n, c.lines, err, readErr)
		}
		if c.lines == 5000 {
			got, err := to.Read(ctx, key, 1, 1<<20)
			if diff := cmp.Diff(logstest.Lines(1, 5000), got); err != nil || diff != "" {
				t.Errorf("%s: %v %.1000s", name, err, diff)
			}
		}
	}
}

// badStore is one of which some logs can't be read from a line on.
type badStore struct {
	*segment.Store

	bad  map[string]int64 // attempt, line
	code nimbus.Code
}

func (s badStore) Read(ctx context.Context, key nimbus.LogKey, from int64, limit int) ([]nimbus.Line, error) {
	if at, ok := s.bad[key.AttemptID]; ok && from+int64(limit) > at {
		if from >= at {
			return nil, nimbus.Errorf(s.code, "the log is damaged")
		}
		limit = int(at - from)
	}
	return s.Store.Read(ctx, key, from, limit)
}

// TestExportGoesOn: a log that is damaged is in the archive up to there, and the others
// are there whole; a store that does not answer makes no archive.
func TestExportGoesOn(t *testing.T) {
	t.Parallel()
	from, to, org := newStore(t), newStore(t), logstest.Key().OrgID
	var keys []nimbus.LogKey
	for i := range 3 {
		k := nimbus.LogKey{OrgID: org, AttemptID: nimbus.NewID(nimbus.PrefixAttempt, time.Now().Add(time.Duration(i)*time.Second))}
		keys = append(keys, k)
		if _, err := from.Append(t.Context(), k, logstest.Lines(1, 20)); err != nil {
			t.Fatal(err)
		}
	}
	bad := map[string]int64{keys[0].AttemptID: 1, keys[1].AttemptID: 11}
	log := slog.New(slog.DiscardHandler)
	var archive bytes.Buffer
	a, err := logs.Export(t.Context(), badStore{from, bad, nimbus.CodeInternal}, org, &archive, log)
	if want := (logs.Archived{Attempts: 3, Lines: 30, Damaged: 2}); err != nil || a != want {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := logs.Import(t.Context(), to, org, &archive, func(context.Context, string) error { return nil }); err != nil {
		t.Error(err)
	}
	for i, want := range []int64{0, 10, 20} {
		if n, err := to.Acked(t.Context(), keys[i]); err != nil || n != want {
			t.Errorf("log %d comes back with %d lines, want %d, %v", i, n, want, err)
		}
	}
	if _, err := logs.Export(t.Context(), badStore{from, bad, nimbus.CodeUnavailable}, org, &archive, log); nimbus.ErrorCode(err) != nimbus.CodeUnavailable {
		t.Errorf("a store that is away: %v", err)
	}
}

// heard is what a reader gets of a whole log: lines, and which are told as damaged.
func heard(t *testing.T, s logs.Reader, key nimbus.LogKey) (lines []nimbus.Line, damaged []string) {
	t.Helper()
	for from := int64(1); ; {
		page, bad, err := logs.ReadOn(t.Context(), s, key, from, 100)
		switch {
		case err != nil:
			t.Fatal(err)
		case bad != nil:
			damaged, from = append(damaged, fmt.Sprintf("%d-%d", bad.First, bad.Last)), bad.Last+1
		case len(page) == 0:
			return lines, damaged
		default:
			lines, from = append(lines, page...), page[len(page)-1].Seq+1
		}
	}
}

// TestExportTellsDamage: of a log that is damaged in its midst an archive has what lies
// before and behind, and who reads what came out of it is told of the same lines as who
// reads the log itself; so it is with an archive of that.
func TestExportTellsDamage(t *testing.T) {
	t.Parallel()
	ctx, dir, key := t.Context(), t.TempDir(), logstest.Key()
	from, err := segment.Open(dir, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	whole := logstest.Lines(1, 4000)
	for i := range whole {
		whole[i].Text = fmt.Sprintf("%0250d", i*7919)
	}
	if _, err := from.Append(ctx, key, whole); err != nil {
		t.Fatal(err)
	}
	if err := from.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, key.OrgID, key.AttemptID+".log")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const second, payload = 1, 100 // of the frame, behind its header
	at := -1
	for range second + 1 {
		at += 1 + bytes.Index(raw[at+1:], []byte("NLF2"))
	}
	if err := os.WriteFile(path, changed(raw, at+payload), 0o600); err != nil {
		t.Fatal(err)
	}
	if from, err = segment.Open(dir, 1<<30); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { from.Close() })
	lines, damaged := heard(t, from, key)
	lost := int64(4000 - len(lines))
	if len(damaged) != 1 || lost < 1001 || lines[len(lines)-1].Seq != 4000 {
		t.Fatalf("the log has %d lines, and %v are damaged", len(lines), damaged)
	}
	yes, log := func(context.Context, string) error { return nil }, slog.New(slog.DiscardHandler)
	var first []byte
	for _, name := range []string{"an archive of it", "an archive of what came out of that"} {
		var archive bytes.Buffer
		a, err := logs.Export(ctx, from, key.OrgID, &archive, log)
		if want := (logs.Archived{Attempts: 1, Lines: 4000 - lost, Lost: lost, Damaged: 1}); err != nil || a != want {
			t.Fatalf("%s: %+v, %v", name, a, err)
		}
		if first == nil {
			first = archive.Bytes()
		}
		if !bytes.Equal(first, archive.Bytes()) {
			t.Errorf("%s is another one", name)
		}
		to := newStore(t)
		a, err = logs.Import(ctx, to, key.OrgID, &archive, yes)
		if want := (logs.Archived{Attempts: 1, Lines: 4000 - lost, Lost: lost}); err != nil || a != want {
			t.Errorf("%s: %+v comes back, %v", name, a, err)
		}
		gotLines, gotDamaged := heard(t, to, key)
		if diff := cmp.Diff(lines, gotLines) + cmp.Diff(damaged, gotDamaged); diff != "" {
			t.Errorf("%s: %.1000s", name, diff)
		}
		from = to
	}
	// What breaks off within the lines that are lost leaves nothing, and counts nothing.
	to := newStore(t)
	if a, err := logs.Import(ctx, to, key.OrgID, bytes.NewReader(first[:len(first)/2]), yes); err == nil || a != (logs.Archived{}) {
		t.Errorf("half of it: %+v, %v", a, err)
	}
}

// TestLostLinesAreNobodyElses: what a job writes is not taken for Nimbus' own word.
func TestLostLinesAreNobodyElses(t *testing.T) {
	t.Parallel()
	s, key := newStore(t), logstest.Key()
	lines := logstest.Lines(1, 3)
	const form = "nimbus: lines %d to %d are damaged: they could not be read when the log was exported"
	lines[0].Stream, lines[0].Text = nimbus.StreamStdout, fmt.Sprintf(form, 1, 3)
	lines[1].Stream, lines[1].Text = nimbus.StreamSystem, fmt.Sprintf(form, 3, 9) // not of this line
	lines[2].Stream, lines[2].Text = nimbus.StreamSystem, fmt.Sprintf(form, 1, 3)+"!"
	if _, err := s.Append(t.Context(), key, lines); err != nil {
		t.Fatal(err)
	}
	if got, damaged := heard(t, s, key); len(got) != 3 || damaged != nil {
		t.Errorf("%v, damaged: %v", got, damaged)
	}
}

// busyStore is one to which somebody else writes lines of a log before the first that an
// import writes, or which is away for one log.
type busyStore struct {
	logs.Store

	before int64  // lines that somebody else writes
	away   string // the attempt
}

var errAway = errors.New("away")

func (s *busyStore) Append(ctx context.Context, key nimbus.LogKey, lines []nimbus.Line) (int64, error) {
	if s.before > 0 {
		if _, err := s.Store.Append(ctx, key, logstest.Lines(1, s.before)); err != nil {
			return 0, err
		}
		s.before = 0
	}
	return s.Store.Append(ctx, key, lines)
}

func (s *busyStore) Acked(ctx context.Context, key nimbus.LogKey) (int64, error) {
	if key.AttemptID == s.away {
		return 0, errAway
	}
	return s.Store.Acked(ctx, key)
}

// TestImportGivesUpItsOwn: an import that fails removes neither what somebody else wrote
// meanwhile, nor the log before, which it read to its end.
func TestImportGivesUpItsOwn(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	from, key := newStore(t), logstest.Key()
	second := nimbus.LogKey{OrgID: key.OrgID, AttemptID: nimbus.NewID(nimbus.PrefixAttempt, time.Now().Add(time.Second))}
	for _, k := range []nimbus.LogKey{key, second} {
		if _, err := from.Append(ctx, k, logstest.Lines(1, 20)); err != nil {
			t.Fatal(err)
		}
	}
	var archive bytes.Buffer
	if _, err := logs.Export(ctx, from, key.OrgID, &archive, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	yes := func(context.Context, string) error { return nil }
	for name, c := range map[string]struct {
		store busyStore
		want  int64 // lines of the first log
		fails func(error) bool
	}{
		"written meanwhile":    {busyStore{before: 30}, 30, func(err error) bool { return nimbus.ErrorCode(err) == nimbus.CodeConflict }},
		"away from the second": {busyStore{away: second.AttemptID}, 20, func(err error) bool { return errors.Is(err, errAway) }},
	} {
		to := newStore(t)
		c.store.Store = to
		if a, err := logs.Import(ctx, &c.store, key.OrgID, bytes.NewReader(archive.Bytes()), yes); !c.fails(err) {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
		if n, err := to.Acked(ctx, key); err != nil || n != c.want {
			t.Errorf("%s: the first log has %d lines, want %d, %v", name, n, c.want, err)
		}
	}
}

func changed(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 1
	return b
}
