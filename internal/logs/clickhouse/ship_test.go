package clickhouse

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
	"github.com/nimbus-ci/nimbus/internal/testenv"
	"github.com/nimbus-ci/nimbus/test/faultproxy"
)

// memory is an outbox that a test fills.
type memory struct {
	mu      sync.Mutex
	batches []logs.Batch
	next    int64
	away    bool
}

func (m *memory) add(parts ...logs.Part) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.next += 1 + rand.Int64N(3)
	m.batches = append(m.batches, logs.Batch{ID: m.next, Logs: parts})
}

func (m *memory) Next(context.Context) (logs.Batch, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away {
		return logs.Batch{}, false, errors.New("the outbox is away")
	}
	if len(m.batches) == 0 {
		return logs.Batch{}, false, nil
	}
	return m.batches[0], true, nil
}

func (m *memory) Shipped(_ context.Context, id int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.batches = slices.DeleteFunc(m.batches, func(b logs.Batch) bool { return b.ID <= id })
	return nil
}

func (m *memory) Lag(context.Context) (bytes int64, oldest time.Time, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range m.batches {
		for _, p := range b.Logs {
			for _, l := range p.Lines {
				bytes += int64(len(l.Text)) + 1
				if oldest.IsZero() || l.At.Before(oldest) {
					oldest = l.At
				}
			}
		}
	}
	return bytes, oldest, nil
}

func (m *memory) left() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.batches)
}

// await waits until all was copied.
func (m *memory) await(t *testing.T) {
	t.Helper()
	for m.left() > 0 {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal("not all was copied")
		}
	}
}

// run copies until the test ends, or stop is called.
func run(t *testing.T, s *Shipper) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() { s.Run(ctx) })
	stop = func() { cancel(); all.Wait() }
	t.Cleanup(stop)
	return stop
}

// newShipper returns one that waits for less than an operator's would.
func newShipper(s *Store, outbox logs.Outbox, log *slog.Logger) *Shipper {
	shipper := NewShipper(s, outbox, log)
	shipper.lastRetry, shipper.blockEvery = 50*time.Millisecond, time.Millisecond
	return shipper
}

// fill gives an outbox lines of some logs in many batches, and returns the logs.
func fill(random *rand.Rand, m *memory, org string, n, batches int) []logs.Part {
	whole := make([]logs.Part, n)
	for i := range whole {
		whole[i].Key = key(org, jobStart().Add(time.Duration(i)*time.Minute))
	}
	for range batches {
		var parts []logs.Part
		for range 1 + random.IntN(4) {
			p := &whole[random.IntN(n)]
			lines := someLines(random, int64(len(p.Lines))+1, 1+random.IntN(50), jobStart())
			p.Lines = append(p.Lines, lines...)
			parts = append(parts, logs.Part{Key: p.Key, Lines: lines})
		}
		m.add(parts...)
	}
	return whole
}

// checkWhole holds what is there against what was written: every line once, in
// order, and as many in the totals.
func checkWhole(t *testing.T, s *Store, whole []logs.Part) {
	t.Helper()
	total := 0
	for _, p := range whole {
		total += len(p.Lines)
		got, err := s.Read(t.Context(), p.Key, 1, len(p.Lines)+10)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(p.Lines, got); diff != "" {
			t.Fatalf("%s: %s", p.Key.AttemptID, diff)
		}
		if lines, last, err := s.Held(t.Context(), p.Key); err != nil || lines != int64(len(p.Lines)) || last != lines {
			t.Fatalf("%s: %d lines up to %d of %d, %v", p.Key.AttemptID, lines, last, len(p.Lines), err)
		}
	}
	if n := rawCount(t, s, "log_lines", "count()"); n != uint64(total) {
		t.Errorf("there are %d rows of %d lines", n, total)
	}
	if n := rawCount(t, s, "log_stats", "sum(lines)"); n != uint64(total) {
		t.Errorf("%d lines are counted of %d", n, total)
	}
}

func TestShipping(t *testing.T) {
	t.Parallel()
	s := open(t)
	m := &memory{}
	whole := fill(newRandom(), m, newOrg(), 5, 30)
	shipper := newShipper(s, m, discard())
	if f := shipper.Figures(); f.LagBytes == 0 || f.LagSeconds == 0 {
		t.Errorf("before: %+v", f)
	}
	run(t, shipper)
	m.await(t)
	checkWhole(t, s, whole)
	// Two that copy the same at once, from outboxes that know nothing of each other.
	one, other := &memory{}, &memory{}
	more := fill(newRandom(), one, newOrg(), 5, 30)
	other.batches = slices.Clone(one.batches)
	run(t, newShipper(s, one, discard()))
	run(t, newShipper(s, other, discard()))
	one.await(t)
	other.await(t)
	checkWhole(t, s, append(whole, more...))
}

// TestOutageIsLag: what can't be copied waits, and is told.
func TestOutageIsLag(t *testing.T) {
	t.Parallel()
	server := testenv.ClickHouse(t)
	s := openAt(t, server.URL)
	server.Kill()
	m := &memory{}
	whole := fill(newRandom(), m, newOrg(), 3, 10)
	shipper := newShipper(s, m, discard())
	run(t, shipper)
	until(t, func() bool { return shipper.Figures().Failures >= 3 })
	if f := shipper.Figures(); !f.Away || f.LagBytes == 0 || f.LagSeconds < 1 || f.Lines != 0 || m.left() != 10 {
		t.Errorf("while it is away: %+v, %d batches wait", f, m.left())
	}
	if err := s.Check(t.Context()); nimbus.ErrorCode(err) != nimbus.CodeUnavailable {
		t.Errorf("away it is said to be: %v", err)
	}
	if _, err := s.Read(t.Context(), whole[0].Key, 1, 10); nimbus.ErrorCode(err) != nimbus.CodeUnavailable {
		t.Errorf("a read: %v", err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	m.await(t)
	checkWhole(t, s, whole)
	until(t, func() bool { f := shipper.Figures(); return f.LagBytes == 0 && !f.Away }) // it is as of a moment ago
	if f := shipper.Figures(); f.LagSeconds != 0 || f.Lines == 0 {
		t.Errorf("after it: %+v", f)
	}
}

// TestCutConnections: acknowledgements are lost, the engine is killed and started
// anew, and still every line is there once.
func TestCutConnections(t *testing.T) {
	t.Parallel()
	server := testenv.ClickHouse(t)
	direct := openAt(t, server.URL)
	proxy, err := faultproxy.Listen(faultproxy.Backend{Network: "tcp", Address: server.Address})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	s := storeAt(t, strings.Replace(server.URL, server.Address, proxy.Addr(), 1)+"/"+direct.database)
	random := newRandom()
	m := &memory{}
	whole := fill(random, m, newOrg(), 10, 80)
	shipper := newShipper(s, m, discard())
	run(t, shipper)
	for round := 0; m.left() > 0 && round < 40; round++ {
		time.Sleep(time.Duration(random.IntN(120)) * time.Millisecond)
		switch {
		case round%12 == 11:
			server.Kill()
			if err := server.Start(); err != nil {
				t.Fatal(err)
			}
		case random.IntN(2) == 0:
			proxy.Cut()
		default:
			d := proxy.Detach() // what was sent arrives after who sent it gave up
			d.Cut()
			time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond)
			d.Arrive()
		}
	}
	if f := shipper.Figures(); f.Failures == 0 {
		t.Errorf("nothing failed: %+v", f)
	}
	m.await(t)
	checkWhole(t, direct, whole)
}

// TestRefusedLinesAreParked: of what the engine refuses for its content the rest is
// kept, and the others are told.
func TestRefusedLinesAreParked(t *testing.T) {
	t.Parallel()
	s := open(t)
	if err := s.conn.Exec(t.Context(), "ALTER TABLE "+s.table("log_lines")+" ADD CONSTRAINT no_poison CHECK position(text, 'poison') = 0"); err != nil {
		t.Fatal(err)
	}
	m := &memory{}
	whole := fill(newRandom(), m, newOrg(), 4, 6)
	poisoned := key(whole[0].Key.OrgID, jobStart())
	lines := someLines(newRandom(), 1, 100, jobStart())
	lines[20].Text, lines[21].Text, lines[99].Text = "poison", "more poison", "poison at the end"
	bad := logs.Part{Key: nimbus.LogKey{OrgID: "org_", AttemptID: "../../etc"}, Lines: someLines(newRandom(), 1, 3, jobStart())}
	m.add(logs.Part{Key: poisoned, Lines: lines}, bad)
	after := fill(newRandom(), m, whole[0].Key.OrgID, 4, 6)
	shipper := newShipper(s, m, discard())
	run(t, shipper)
	m.await(t)
	if f := shipper.Figures(); f.Parked != 6 || f.Away {
		t.Errorf("3 lines are poison, and 3 of no log: %+v", f)
	}
	kept := slices.Concat(lines[:20], lines[22:99])
	got, err := s.Read(t.Context(), poisoned, 1, 1000)
	if err != nil || cmp.Diff(kept, got) != "" {
		t.Errorf("of the log there is: %v %s", err, cmp.Diff(kept, got))
	}
	if yes, err := s.Parked(t.Context(), poisoned); !yes || err != nil {
		t.Errorf("it is not told: %v", err)
	}
	if yes, err := s.Parked(t.Context(), whole[0].Key); yes || err != nil {
		t.Errorf("told of a whole log: %v", err)
	}
	if held, last, err := s.Held(t.Context(), poisoned); err != nil || held != 97 || last != 99 {
		t.Errorf("%d lines up to %d are held, %v: it must not pass for whole", held, last, err)
	}
	for _, p := range append(whole, after...) {
		if lines, _, err := s.Held(t.Context(), p.Key); err != nil || lines != int64(len(p.Lines)) {
			t.Errorf("beside it %d lines of %d are held, %v", lines, len(p.Lines), err)
		}
	}
}

// TestTroubleIsNoRefusal: what an operator can mend is waited for.
func TestTroubleIsNoRefusal(t *testing.T) {
	t.Parallel()
	s := open(t)
	if err := s.conn.Exec(t.Context(), "RENAME TABLE "+s.table("log_lines")+" TO "+s.table("away")); err != nil {
		t.Fatal(err)
	}
	m := &memory{}
	whole := fill(newRandom(), m, newOrg(), 2, 5)
	shipper := newShipper(s, m, discard())
	run(t, shipper)
	until(t, func() bool { return shipper.Figures().Failures >= 2 })
	if f := shipper.Figures(); f.Parked != 0 || m.left() != 5 {
		t.Errorf("%+v, %d batches wait", f, m.left())
	}
	if err := s.conn.Exec(t.Context(), "RENAME TABLE "+s.table("away")+" TO "+s.table("log_lines")); err != nil {
		t.Fatal(err)
	}
	m.await(t)
	for _, p := range whole {
		if lines, _, err := s.Held(t.Context(), p.Key); err != nil || lines != int64(len(p.Lines)) {
			t.Errorf("%d lines of %d are held, %v", lines, len(p.Lines), err)
		}
	}
}

func TestBlocks(t *testing.T) {
	t.Parallel()
	k := key(newOrg(), jobStart())
	long := make([]nimbus.Line, 3000)
	for i := range long {
		long[i] = nimbus.Line{Seq: int64(i + 1), Stream: nimbus.StreamStdout, Text: strings.Repeat("x", nimbus.MaxLineBytes)}
	}
	many := make([]nimbus.Line, 250_001)
	for i := range many {
		many[i] = nimbus.Line{Seq: int64(i + 1), Stream: nimbus.StreamStdout}
	}
	for _, parts := range [][]logs.Part{
		nil, {{Key: k}}, {{Key: k, Lines: long}}, {{Key: k, Lines: many}}, {{Key: k, Lines: many[:99_999]}, {Key: k, Lines: many[99_999:100_003]}, {Key: k}},
	} {
		got, want := []nimbus.Line{}, []nimbus.Line{}
		tokens := map[string]bool{}
		for _, p := range parts {
			want = append(want, p.Lines...)
		}
		for _, b := range blocks(parts) {
			rows, text := 0, 0
			for _, p := range b.parts {
				got = append(got, p.Lines...)
				rows += len(p.Lines)
				for _, l := range p.Lines {
					text += len(l.Text)
				}
			}
			if rows != b.rows || rows == 0 || rows > maxBlockRows || text > maxBlockText+nimbus.MaxLineBytes {
				t.Errorf("a block has %d rows, says %d, and %d bytes", rows, b.rows, text)
			}
			if tokens[b.token()] {
				t.Error("two blocks have one token")
			}
			tokens[b.token()] = true
			h := b.halves()
			if h[0].rows+h[1].rows != b.rows || b.rows > 1 && (h[0].rows == 0 || h[1].rows == 0) {
				t.Errorf("%d rows are cut into %d and %d", b.rows, h[0].rows, h[1].rows)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%d lines became %d in blocks", len(want), len(got))
		}
	}
}

// until waits for what a shipper does by itself.
func until(t *testing.T, is func() bool) {
	t.Helper()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for end := time.After(time.Minute); !is(); {
		select {
		case <-look.C:
		case <-end:
			t.Fatal("it does not come to it")
		}
	}
}
