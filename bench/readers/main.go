// Command readers measures what it takes to have a thousand people follow one job's log
// at once: how soon each sees a line, how many lines a second reach all of them, and what
// that costs the server, alone and beside readers that hardly take what they are sent.
//
// The floor is a plain Go program that syncs the same bytes to a file and sends them to as
// many readers: no accounts, no jobs, no log that outlives it. Both are processes of their
// own, and take turns. docs/benchmarks.md says what is in each figure.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nimbus-ci/nimbus/bench/process"
	"github.com/nimbus-ci/nimbus/bench/profile"
	"github.com/nimbus-ci/nimbus/bench/report"
)

// size is how much is done.
type size struct {
	Readers, Slow   int
	Lines, Batch    int // of a job that writes as fast as it can
	Paced, AtATime  int // appends of one that writes now and then, and lines of each
	Apart           time.Duration
	Rounds          int
	deliveredAtMost time.Duration
}

func sizes() size {
	s := size{Readers: 1000, Slow: 100, Lines: 5000, Batch: 250, Paced: 100, AtATime: 5, Apart: 100 * time.Millisecond, Rounds: 3, deliveredAtMost: 3 * time.Minute}
	if os.Getenv("QUICK") != "" {
		s.Lines, s.Paced, s.Rounds = 2000, 30, 1
	}
	return s
}

func main() {
	var err error
	if len(os.Args) == 3 && os.Args[1] == "floor" {
		err = serveFloor(os.Args[2])
	} else {
		err = run(context.Background(), sizes())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-readers:", err)
		os.Exit(1)
	}
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench-readers: "+format+"\n", args...)
}

// side is a server whose logs are followed.
type side interface {
	// begin begins a log, and returns where it is followed.
	begin(ctx context.Context) (where endpoint, add appender, err error)
	pid() int
}

// appender adds lines to a log, as they are numbered. It returns once they are kept.
type appender func(ctx context.Context, first, n int) error

// samples are what one side measured, a value a round.
type samples struct {
	perS, p99, slowPerS, slowP99, cpu []float64
	rss                               float64
}

func run(ctx context.Context, s size) (err error) {
	r := report.New("readers")
	dir, err := os.MkdirTemp(os.Getenv("BENCH_DIR"), "nimbus-bench-readers-")
	if err != nil {
		return fmt.Errorf("make work folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	product, stop, err := startProduct(ctx, dir)
	if err != nil {
		return err
	}
	defer stop()
	floor, stopFloor, err := startFloor(ctx, dir)
	if err != nil {
		return err
	}
	defer stopFloor()
	profiled := profile.While(ctx, product.plane.URL, product.plane.TokenFile)
	sides := []side{product, floor}
	var got [2]samples
	for round := range s.Rounds {
		for _, i := range [2]int{round % 2, 1 - round%2} { // who begins changes
			if err := s.measure(ctx, sides[i], &got[i]); err != nil {
				return fmt.Errorf("round %d of %s: %w", round+1, [...]string{"the product", "the floor"}[i], err)
			}
			last := len(got[i].perS) - 1
			progress("%d/%d %s: %.0f lines/s to all, %.2f µs of CPU each; seen after %.1f ms (p99); beside slow ones %.0f lines/s, %.1f ms", round+1, s.Rounds,
				[...]string{"product", "floor"}[i], got[i].perS[last], got[i].cpu[last], got[i].p99[last], got[i].slowPerS[last], got[i].slowP99[last])
		}
	}
	for i := range sides {
		peak, err := process.PeakRSS(sides[i].pid())
		if err != nil {
			return err
		}
		got[i].rss = float64(peak) / 1e6
	}
	if err := profiled(); err != nil {
		return err
	}
	return tell(r, s, got[0], got[1])
}

// measure takes a round of one side.
func (s size) measure(ctx context.Context, of side, into *samples) error {
	paced, err := s.follow(ctx, of, 0, s.Paced*s.AtATime, s.AtATime, s.Apart)
	if err != nil {
		return err
	}
	flood, err := s.follow(ctx, of, 0, s.Lines, s.Batch, 0)
	if err != nil {
		return err
	}
	slowPaced, err := s.follow(ctx, of, s.Slow, s.Paced*s.AtATime, s.AtATime, s.Apart)
	if err != nil {
		return err
	}
	slowFlood, err := s.follow(ctx, of, s.Slow, s.Lines, s.Batch, 0)
	if err != nil {
		return err
	}
	into.p99, into.slowP99 = append(into.p99, paced.p99), append(into.slowP99, slowPaced.p99)
	into.perS, into.slowPerS = append(into.perS, flood.perS), append(into.slowPerS, slowFlood.perS)
	into.cpu = append(into.cpu, flood.cpu)
	return nil
}

// outcome is what one log, followed by all, tells.
type outcome struct {
	perS float64 // lines that reached all who read, a second
	p99  float64 // ms from the append of a line to its sight
	cpu  float64 // µs of the server's, of a line to a reader
}

// follow has a log written that all readers follow from before it begins.
func (s size) follow(ctx context.Context, of side, slow, lines, batch int, apart time.Duration) (o outcome, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.deliveredAtMost)
	defer cancel()
	where, add, err := of.begin(ctx)
	if err != nil {
		return o, err
	}
	c := newCrowd(lines)
	defer c.leave()
	if err := c.join(ctx, where, s.Readers, slow); err != nil {
		return o, err
	}
	before, err := process.CPU(of.pid())
	if err != nil {
		return o, err
	}
	began := time.Now()
	for first := 1; first <= lines; first += batch {
		c.written(first, batch)
		if err := add(ctx, first, batch); err != nil {
			return o, fmt.Errorf("append lines: %w", err)
		}
		if apart > 0 {
			time.Sleep(time.Until(began.Add(time.Duration(first/batch+1) * apart)))
		}
	}
	if err := c.seen(ctx); err != nil {
		return o, err
	}
	took := time.Since(began)
	after, err := process.CPU(of.pid())
	if err != nil {
		return o, err
	}
	o.perS = float64(lines) / took.Seconds()
	o.cpu = float64((after - before).Microseconds()) / float64(lines*s.Readers)
	o.p99 = c.percentile(0.99)
	return o, nil
}

func tell(r *report.Report, s size, product, floor samples) error {
	const what = "a plain Go program that syncs the same bytes to a file and sends them to as many"
	whatever := func(float64, float64) bool { return true }
	r.AddPaired("lines_per_s", "1/s", product.perS, floor.perS, what, "ratio>=0.25", func(_, ratio float64) bool { return ratio >= 0.25 }).Rows = s.Readers
	r.AddPaired("line_p99_ms", "ms", product.p99, floor.p99, what, "value<=400", func(v, _ float64) bool { return v <= 400 }).Rows = s.Readers
	r.AddPaired("server_cpu_us_per_line", "µs", product.cpu, floor.cpu, what, "", whatever).Rows = s.Readers
	r.AddPaired("lines_per_s_beside_slow", "1/s", product.slowPerS, product.perS, "the same without the slow ones", "ratio>=0.7", func(_, ratio float64) bool { return ratio >= 0.7 }).Rows = s.Slow
	r.AddPaired("line_p99_ms_beside_slow", "ms", product.slowP99, product.p99, "the same without the slow ones", "value<=400", func(v, _ float64) bool { return v <= 400 }).Rows = s.Slow
	r.Add("rss_mb", "MB", []float64{product.rss}, []float64{floor.rss}, what, "value<=300", func(v, _ float64) bool { return v <= 300 }).Rows = s.Readers + s.Slow
	return r.Write(os.Stdout)
}
