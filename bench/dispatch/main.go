// Command dispatch measures the control plane's queue: jobs that come by signed
// webhook, are claimed by simulated hosts and completed, over HTTP with
// tokens, tenancy and fairness on, everything on this machine. ONLY=sustained,
// history, sqlite or river runs that part alone. The floor is
// what that leaves in the database, written by the same statements in batches
// and nothing else; they take turns. docs/benchmarks.md says what is in a cycle.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus/bench/profile"
	"github.com/nimbus-ci/nimbus/bench/replica"
	"github.com/nimbus-ci/nimbus/bench/report"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// size is how much is done.
type size struct {
	cycles, floor, chunks int // of the sustained run: cycles and floor in each chunk
	latency               time.Duration
	history, compare      int // jobs in the history; cycles of each turn of the comparison
	sqlite, river, turns  int
}

func sizes() size {
	if os.Getenv("QUICK") != "" {
		return size{cycles: 3000, floor: 3000, chunks: 4, latency: 5 * time.Second, history: 200_000, compare: 800, sqlite: 800, river: 4000, turns: 2}
	}
	full := size{cycles: 20_000, floor: 20_000, chunks: 10, latency: 30 * time.Second, history: 10_000_000, compare: 5000, sqlite: 4000, river: 10_000, turns: 3}
	if n, err := strconv.Atoi(os.Getenv("HISTORY")); err == nil { // for a disk with no room for 30 GB
		full.history = n
	}
	return full
}

// settings make PostgreSQL as durable as it comes; memory as a small server has.
const settings = "shared_buffers = 512MB\nmax_wal_size = 4GB\nmax_connections = 200\n"

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "bench-dispatch:", err)
		os.Exit(1)
	}
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench-dispatch: "+format+"\n", args...)
}

// bench is what the figures share.
type bench struct {
	size
	report *report.Report
	server *testenv.Server
	dir    string
}

func run(ctx context.Context) (err error) {
	b := &bench{size: sizes(), report: report.New("dispatch")}
	if b.dir, err = os.MkdirTemp("", "nimbus-bench-dispatch-"); err != nil {
		return fmt.Errorf("make work folder: %w", err)
	}
	defer os.RemoveAll(b.dir)
	if b.server, err = testenv.StartPostgres(settings); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.server.Close()) }()
	only := os.Getenv("ONLY")
	for _, part := range []struct {
		name string
		run  func(context.Context) error
	}{{"sustained", b.sustained}, {"history", b.withHistory}, {"sqlite", b.onSQLite}, {"river", b.peer}} {
		if only != "" && only != part.name {
			continue
		}
		if err := part.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return b.report.Write(os.Stdout)
}

// rate is cycles a second of a run.
func rate(n int, tenths []time.Duration) float64 {
	var all time.Duration
	for _, t := range tenths {
		all += t
	}
	return float64(n) / all.Seconds()
}

// sustained runs cycles and the floor in turns, and then looks how long jobs
// wait at an even pace.
func (b *bench) sustained(ctx context.Context) error {
	database, err := b.server.Create(ctx, "dispatch", "")
	if err != nil {
		return err
	}
	p, err := replica.Start(ctx, b.dir, database)
	if err != nil {
		return err
	}
	defer p.Stop()
	c, err := newCycler(ctx, p)
	if err != nil {
		return err
	}
	if _, err := c.run(ctx, b.cycles); err != nil { // caches and plans fill
		return err
	}
	var cycles, floors []float64
	profiled := profile.While(ctx, p.URL, p.TokenFile)
	spent := &spending{server: p.PID(), database: b.server.Pid()}
	for i := range b.chunks {
		var tenths []time.Duration
		if err := spent.during(func() (err error) {
			tenths, err = c.run(ctx, b.cycles)
			return err
		}); err != nil {
			return err
		}
		bare, err := floor(ctx, database, b.floor)
		if err != nil {
			return err
		}
		cycles, floors = append(cycles, rate(b.cycles, tenths)), append(floors, bare)
		progress("%d of %d: %.0f cycles/s, floor %.0f/s", i+1, b.chunks, cycles[i], bare)
	}
	if err := profiled(); err != nil {
		return err
	}
	b.report.Add("cycles_per_s", "1/s", cycles, floors, "the statements of a cycle in the same batches, no HTTP", "ratio>=0.35 && value>=900",
		func(value, ratio float64) bool { return ratio >= 0.35 && value >= 900 }).Rows = b.cycles * b.chunks
	for of, ms := range spent.perCycle(b.cycles * b.chunks) {
		progress("%s: %.2f ms of CPU a cycle", of, ms)
		b.report.Add(of+"_cpu_ms_per_cycle", "ms", []float64{ms}, nil, "", "what a cycle costs, for comparison", func(float64, float64) bool { return true })
	}
	// The machine is noisy: the trend is that of the ratio to the floor.
	last, first := cycles[b.chunks-1]/floors[b.chunks-1], cycles[0]/floors[0]
	b.report.Add("last_vs_first_tenth", "ratio", []float64{cycles[b.chunks-1] / cycles[0]}, []float64{floors[b.chunks-1] / floors[0]},
		"the floor's own last against its first", "value>=0.9 || ratio>=0.9", func(value, ratio float64) bool { return value >= 0.9 || last/first >= 0.9 })
	l, err := measureLatencies(ctx, p, database, b.latency)
	if err != nil {
		return err
	}
	progress("of %d jobs, from queue to lease: median %.1f ms, p99 %.1f ms; for a webhook: median %.1f ms, p99 %.1f ms",
		l.jobs, l.lease.p50, l.lease.p99, l.webhook.p50, l.webhook.p99)
	b.report.Add("queue_to_lease_p50_ms", "ms", []float64{l.lease.p50}, nil, "", "for comparison", func(float64, float64) bool { return true }).Rows = l.jobs
	b.report.Add("queue_to_lease_p99_ms", "ms", []float64{l.lease.p99}, nil, "", "value<=40", func(v, _ float64) bool { return v <= 40 }).Rows = l.jobs
	b.report.Add("webhook_p99_ms", "ms", []float64{l.webhook.p99}, nil, "", "value<50", func(v, _ float64) bool { return v < 50 }).Rows = 2 * l.jobs
	return nil
}

// withHistory runs cycles beside a long history and beside none, in turns.
func (b *bench) withHistory(ctx context.Context) error {
	var cyclers [2]*cycler
	for i, name := range []string{"empty", "history"} {
		database, err := b.server.Create(ctx, name, "")
		if err != nil {
			return err
		}
		p, err := replica.Start(ctx, b.dir, database)
		if err != nil {
			return err
		}
		defer p.Stop()
		if cyclers[i], err = newCycler(ctx, p); err != nil {
			return err
		}
		if _, err := cyclers[i].run(ctx, b.compare/2); err != nil {
			return err
		}
		if name == "history" {
			if err := addHistory(ctx, database, b.history); err != nil {
				return err
			}
			if _, err := cyclers[i].run(ctx, b.compare/2); err != nil {
				return err
			}
		}
	}
	var got [2][]float64
	for range b.turns * 2 {
		for i, c := range cyclers {
			tenths, err := c.run(ctx, b.compare)
			if err != nil {
				return err
			}
			got[i] = append(got[i], rate(b.compare, tenths))
		}
	}
	progress("beside %d finished jobs %.0f cycles/s, beside none %.0f", b.history, report.Median(got[1]), report.Median(got[0]))
	b.report.Add("history_vs_empty", "1/s", got[1], got[0], "the same with an empty history", "ratio>=0.9",
		func(_, ratio float64) bool { return ratio >= 0.9 }).Rows = b.history
	return nil
}

func (b *bench) onSQLite(ctx context.Context) error {
	p, err := replica.Start(ctx, b.dir, "")
	if err != nil {
		return err
	}
	defer p.Stop()
	c, err := newCycler(ctx, p)
	if err != nil {
		return err
	}
	var got []float64
	for range b.turns {
		tenths, err := c.run(ctx, b.sqlite)
		if err != nil {
			return err
		}
		got = append(got, rate(b.sqlite, tenths))
	}
	progress("embedded: %.0f cycles/s", report.Median(got))
	b.report.Add("sqlite_cycles_per_s", "1/s", got, nil, "", "value>=400", func(v, _ float64) bool { return v >= 400 }).Rows = b.sqlite * b.turns
	return nil
}

// peer has River insert, work and complete jobs on the same server.
func (b *bench) peer(ctx context.Context) error {
	database, err := b.server.Create(ctx, "river", "")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "bin/bench-river", strconv.Itoa(b.river), strconv.Itoa(b.turns))
	cmd.Env, cmd.Stderr = append(os.Environ(), "DATABASE_URL="+database), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("bin/bench-river: %w", err)
	}
	var got []float64
	for field := range strings.FieldsSeq(string(out)) {
		v, err := strconv.ParseFloat(field, 64)
		if err != nil {
			return fmt.Errorf("bin/bench-river printed %q", out)
		}
		got = append(got, v)
	}
	progress("River: %.0f jobs/s", report.Median(got))
	b.report.Add("river_cycles_per_s", "1/s", got, nil, "", "a peer's, for comparison", func(float64, float64) bool { return true }).Rows = b.river * b.turns
	return nil
}
