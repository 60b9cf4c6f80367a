// Program clickhouse measures how fast lines are copied to ClickHouse, beside a
// bare loop of the same client that inserts the same rows into a table like it.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/google/uuid"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/bench/report"
	"github.com/nimbus-ci/nimbus/internal/logs"
	chstore "github.com/nimbus-ci/nimbus/internal/logs/clickhouse"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// batchRows is how many lines a batch has, of jobs that write at once: as many as
// the embedded store's.
const batchRows = 50_000

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "bench-clickhouse:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	r := report.New("clickhouse")
	rounds, batches := 5, 6
	if os.Getenv("QUICK") != "" {
		rounds, batches = 3, 2
	}
	engine, err := testenv.StartClickHouse()
	if err != nil {
		return err
	}
	defer engine.Close()
	tables, err := chstore.Open(chstore.Config{URL: engine.URL + "/bench"})
	if err != nil {
		return err
	}
	defer tables.Close()
	if _, _, err := tables.Migrate(ctx, chstore.Layout{}); err != nil {
		return err
	}
	bare, err := openBare(ctx, engine)
	if err != nil {
		return err
	}
	defer bare.Close()
	m := measure{tables: tables, bare: bare, random: rand.New(rand.NewPCG(1, 2))}
	for round := range rounds {
		if err := m.round(ctx, batches); err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "round %d: %.0f lines/s, the bare loop %.0f\n", round+1, m.ours[round], m.floor[round])
	}
	f := r.AddPaired("copied", "lines/s", m.ours, m.floor, "the same client inserts the same rows into the same columns, a batch an insert", "ratio >= 0.7",
		func(_, ratio float64) bool { return ratio >= 0.7 })
	f.Rows = batches * batchRows
	r.Add("job_log", "ms", m.read, nil, "", "a whole log of 25,000 lines < 1000", func(v, _ float64) bool { return v < 1000 })
	r.Add("tail", "ms", m.tail, nil, "", "its last 500 lines < 200", func(v, _ float64) bool { return v < 200 })
	r.Add("search", "ms", m.search, nil, "", "a substring in all lines of the org < 5000", func(v, _ float64) bool { return v < 5000 })
	return r.Write(os.Stdout)
}

// measure keeps the samples of all rounds.
type measure struct {
	tables                          *chstore.Store
	bare                            clickhouse.Conn
	random                          *rand.Rand
	ours, floor, read, tail, search []float64
}

// round copies the same lines both ways, one after the other, and then looks at them.
func (m *measure) round(ctx context.Context, n int) error {
	org := nimbus.NewID(nimbus.PrefixOrg, time.Now())
	o, long := makeLines(m.random, org, n)
	size := float64(n * batchRows)

	began := time.Now()
	for _, b := range o.batches {
		if err := m.insertBare(ctx, b); err != nil {
			return fmt.Errorf("the bare loop: %w", err)
		}
	}
	m.floor = append(m.floor, size/time.Since(began).Seconds())

	shipping, stop := context.WithCancel(ctx)
	o.empty = stop
	began = time.Now()
	chstore.NewShipper(m.tables, o, slog.New(slog.NewTextHandler(os.Stderr, nil))).Run(shipping)
	m.ours = append(m.ours, size/time.Since(began).Seconds())

	for _, look := range []struct {
		into *[]float64
		do   func() error
	}{
		{&m.read, func() error { _, err := m.tables.Read(ctx, long, 1, 25_000); return err }},
		{&m.tail, func() error {
			_, last, err := m.tables.Held(ctx, long)
			if err == nil {
				_, err = m.tables.Read(ctx, long, last-499, 500)
			}
			return err
		}},
		{&m.search, func() error {
			_, err := m.tables.Search(ctx, org, logs.Query{Text: "no line has this", Limit: 100})
			return err
		}},
	} {
		began := time.Now()
		if err := look.do(); err != nil {
			return err
		}
		*look.into = append(*look.into, float64(time.Since(began).Microseconds())/1000)
	}
	return nil
}

// outbox hands out batches from memory, and ends the shipper with the last. What
// waits is old: no block waits for more.
type outbox struct {
	batches []logs.Batch
	next    int
	empty   func()
}

func (o *outbox) Next(context.Context) (logs.Batch, bool, error) {
	if o.next == len(o.batches) {
		return logs.Batch{}, false, nil
	}
	return o.batches[o.next], true, nil
}

func (o *outbox) Shipped(context.Context, int64) error {
	if o.next++; o.next == len(o.batches) {
		o.empty()
	}
	return nil
}

func (o *outbox) Lag(context.Context) (int64, time.Time, error) {
	return 1, time.Now().Add(-time.Hour), nil
}

// makeLines makes lines as jobs write them, interleaved, and one log of 25,000.
func makeLines(random *rand.Rand, org string, n int) (*outbox, nimbus.LogKey) {
	at := time.Now().Add(-time.Hour).Truncate(time.Microsecond)
	keys := make([]nimbus.LogKey, 50)
	seqs := make([]int64, len(keys))
	for i := range keys {
		keys[i] = nimbus.LogKey{OrgID: org, AttemptID: nimbus.NewID(nimbus.PrefixAttempt, at)}
	}
	o := &outbox{}
	for id := range n {
		b := logs.Batch{ID: int64(id + 1)}
		for rows := 0; rows < batchRows; {
			job := random.IntN(len(keys))
			if seqs[0] < 25_000 && random.IntN(2) == 0 {
				job = 0
			}
			count := min(20+random.IntN(100), batchRows-rows)
			p := logs.Part{Key: keys[job]}
			for range count {
				seqs[job]++
				at = at.Add(time.Duration(random.IntN(200)) * time.Microsecond)
				p.Lines = append(p.Lines, nimbus.Line{Seq: seqs[job], At: at, Stream: nimbus.StreamStdout, Step: int32(1 + random.IntN(4)), Text: lineText(random)})
			}
			b.Logs, rows = append(b.Logs, p), rows+count
		}
		o.batches = append(o.batches, b)
	}
	return o, keys[0]
}

func lineText(random *rand.Rand) string {
	levels := []string{"INFO", "INFO", "INFO", "WARN", "DEBUG", "ERROR"}
	words := []string{"compile", "test", "package", "fetched", "linking", "ok", "cached", "layer", "step", "module"}
	var b strings.Builder
	fmt.Fprintf(&b, "\x1b[32m%s\x1b[0m %s/%x: ", levels[random.IntN(len(levels))], words[random.IntN(len(words))], random.Uint64())
	for b.Len() < 60+random.IntN(90) {
		b.WriteString(words[random.IntN(len(words))])
		b.WriteByte(' ')
	}
	return b.String()
}

// bareColumns are those of the product's table.
const bareColumns = `org_id UUID CODEC(ZSTD(1)), started_at DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)), log_id UUID CODEC(ZSTD(1)), kind Int8,
seq UInt64 CODEC(Delta(8), ZSTD(1)), at DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)), step UInt32 CODEC(ZSTD(1)), grp UInt32 CODEC(ZSTD(1)),
stream Int8, level Int8, text String CODEC(ZSTD(3)), class UInt16 CODEC(ZSTD(1)), expire_at Date CODEC(ZSTD(1))`

// openBare makes a table like the product's, without all that is around it: no
// view, no tokens.
func openBare(ctx context.Context, engine *testenv.ClickHouseServer) (clickhouse.Conn, error) {
	conn, err := clickhouse.Open(&clickhouse.Options{Protocol: clickhouse.HTTP, Addr: []string{engine.Address},
		Compression: &clickhouse.Compression{Method: clickhouse.CompressionGZIP, Level: 1}})
	if err != nil {
		return nil, fmt.Errorf("open the bare client: %w", err)
	}
	if err := conn.Exec(ctx, "CREATE TABLE default.bare ("+bareColumns+") ENGINE = MergeTree PARTITION BY toYYYYMMDD(started_at) ORDER BY (org_id, started_at, log_id, seq)"); err != nil {
		return nil, fmt.Errorf("make the bare table: %w", err)
	}
	return conn, nil
}

// insertBare is what the client's manual shows: a row at a time into a batch.
func (m *measure) insertBare(ctx context.Context, b logs.Batch) error {
	batch, err := m.bare.PrepareBatch(ctx, "INSERT INTO default.bare")
	if err != nil {
		return err
	}
	defer batch.Close()
	for _, p := range b.Logs {
		org, err := nimbus.IDBytes(nimbus.PrefixOrg, p.Key.OrgID)
		if err != nil {
			return err
		}
		log, err := nimbus.IDBytes(nimbus.PrefixAttempt, p.Key.AttemptID)
		if err != nil {
			return err
		}
		started, _ := nimbus.IDTime(nimbus.PrefixAttempt, p.Key.AttemptID)
		for _, l := range p.Lines {
			if err := batch.Append(uuid.UUID(org), started, uuid.UUID(log), int8(1), uint64(l.Seq), l.At, uint32(l.Step), uint32(l.Group), int8(1), int8(0), l.Text, uint16(90), started.AddDate(0, 0, 90)); err != nil {
				return err
			}
		}
	}
	return batch.Send()
}
