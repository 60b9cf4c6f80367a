package clickhouse

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
)

// Times of shipping.
const (
	// blockEvery is how often a block of few rows is written: many small ones are
	// more than the engine merges.
	blockEvery = time.Second
	// fewRows is what is a small block.
	fewRows = 10_000
	// behind is from when on nothing waits any more.
	behind = 5 * time.Second
	// lookEvery is how often the outbox is asked while it is empty.
	lookEvery = 250 * time.Millisecond
	// How long after a failure it is tried again: more each time.
	firstRetry = 250 * time.Millisecond
	lastRetry  = 5 * time.Second
	// lagFresh is how old a lag may be that metrics tell.
	lagFresh   = 2 * time.Second
	lagTimeout = 2 * time.Second
)

// Shipper copies what a store has acknowledged, batch by batch, in its order.
// Nothing of it is lost while ClickHouse is away: it waits, and the lag tells how
// much of it.
type Shipper struct {
	store  *Store
	outbox logs.Outbox
	log    *slog.Logger
	// How long is waited, at most, after a failure and between small blocks.
	lastRetry, blockEvery time.Duration

	mu      sync.Mutex
	figures Figures
	askedAt time.Time
}

// Figures are what metrics tell of shipping.
type Figures struct {
	LagBytes   int64
	LagSeconds float64 // since when the oldest line waits
	Lines      int64   // that were copied since the start
	Failures   int64   // tries that failed and were repeated
	Parked     int64   // lines that ClickHouse refused for what is in them
	Away       bool    // the last try failed
}

// NewShipper returns one that copies from an outbox. It does nothing until Run.
func NewShipper(store *Store, outbox logs.Outbox, log *slog.Logger) *Shipper {
	return &Shipper{store: store, outbox: outbox, log: log, lastRetry: lastRetry, blockEvery: blockEvery}
}

// Run copies until ctx ends. Two at once waste work, and do no harm: the engine
// takes each block once.
func (s *Shipper) Run(ctx context.Context) {
	retry := firstRetry
	for ctx.Err() == nil {
		began := time.Now()
		rows, shipped, err := s.next(ctx)
		wait := lookEvery
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.failed(ctx, err, retry)
			wait = retry
			retry = min(2*retry, s.lastRetry)
		case shipped:
			s.recovered(ctx)
			retry, wait = firstRetry, 0
			if rows < fewRows && !s.isBehind(ctx) {
				wait = s.blockEvery - time.Since(began)
			}
		}
		if err == nil && !shipped {
			retry = firstRetry
		}
		sleep(ctx, wait)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// next copies the oldest batch; shipped is false if there is none.
func (s *Shipper) next(ctx context.Context) (rows int, shipped bool, err error) {
	b, ok, err := s.outbox.Next(ctx)
	if err != nil || !ok {
		return 0, false, wrap("read what is to be copied", err)
	}
	for _, block := range blocks(b.Logs) {
		if err := s.write(ctx, block, ""); err != nil {
			return rows, false, err
		}
		rows += block.rows
	}
	if err := s.outbox.Shipped(ctx, b.ID); err != nil {
		return rows, false, wrap("note what was copied", err)
	}
	s.mu.Lock()
	s.figures.Lines += int64(rows)
	s.mu.Unlock()
	return rows, true, nil
}

// Write copies lines of which ClickHouse lacks some although it took them once: it
// may know the tokens of what it lost, so these have others.
func (s *Shipper) Write(ctx context.Context, p logs.Part) error {
	again := nimbus.NewID("again", time.Now())
	for _, block := range blocks([]logs.Part{p}) {
		if err := s.write(ctx, block, again); err != nil {
			return err
		}
	}
	return nil
}

// write writes a block. What the engine refuses for what is in it is cut in two
// until the lines are found that are to blame; they are parked, and the others kept.
func (s *Shipper) write(ctx context.Context, b block, salt string) error {
	err := s.store.insert(ctx, b, b.token()+salt)
	switch {
	case err == nil:
		return nil
	case !refused(err) && nimbus.ErrorCode(err) != nimbus.CodeInvalid:
		return err
	case b.rows > 1:
		for _, half := range b.halves() {
			if err := s.write(ctx, half, salt); err != nil {
				return err
			}
		}
		return nil
	}
	return s.park(ctx, b.parts[0], err)
}

// park gives up on one line, and says so: the first store keeps its log.
func (s *Shipper) park(ctx context.Context, p logs.Part, refusal error) error {
	err := s.store.park(ctx, p, refusal.Error())
	if err != nil && nimbus.ErrorCode(err) != nimbus.CodeInvalid {
		return err
	}
	s.log.ErrorContext(ctx, "ClickHouse refuses a line for what is in it; it stays in the first store alone",
		"org", p.Key.OrgID, "log", p.Key.AttemptID, "line", p.Lines[0].Seq, "error", refusal)
	s.mu.Lock()
	s.figures.Parked++
	s.mu.Unlock()
	return nil
}

// failed tells of trouble when it begins, and of each later try to who debugs.
func (s *Shipper) failed(ctx context.Context, err error, retry time.Duration) {
	s.mu.Lock()
	first := !s.figures.Away
	s.figures.Away = true
	s.figures.Failures++
	s.mu.Unlock()
	level := slog.LevelDebug
	if first {
		level = slog.LevelWarn
	}
	s.log.Log(ctx, level, "lines can't be copied to ClickHouse, it is tried again; nothing is lost, they wait", "after", retry, "error", err)
}

func (s *Shipper) recovered(ctx context.Context) {
	s.mu.Lock()
	was := s.figures.Away
	s.figures.Away = false
	s.mu.Unlock()
	if was {
		s.log.InfoContext(ctx, "lines are copied to ClickHouse again")
	}
}

// isBehind tells whether lines wait for longer than blocks are made to.
func (s *Shipper) isBehind(ctx context.Context) bool {
	_, oldest, err := s.outbox.Lag(ctx)
	return err == nil && !oldest.IsZero() && time.Since(oldest) > behind
}

// Figures tells how far shipping is, the lag as of a moment ago.
func (s *Shipper) Figures() Figures {
	s.mu.Lock()
	stale := time.Since(s.askedAt) > lagFresh
	if stale {
		s.askedAt = time.Now()
	}
	s.mu.Unlock()
	if stale {
		ctx, cancel := context.WithTimeout(context.Background(), lagTimeout)
		defer cancel()
		if bytes, oldest, err := s.outbox.Lag(ctx); err == nil {
			s.mu.Lock()
			s.figures.LagBytes, s.figures.LagSeconds = bytes, 0
			if !oldest.IsZero() {
				s.figures.LagSeconds = max(0, time.Since(oldest).Seconds())
			}
			s.mu.Unlock()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.figures
}
