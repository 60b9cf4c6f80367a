// Command logs measures what logs cost: lines of many jobs that write at once, brought
// to disk and read back. The floor compresses, writes and syncs the same batches and
// does nothing else; the two take turns, each in a process of its own. Making the lines
// is not measured. docs/benchmarks.md says what is in each figure.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/nimbus-ci/nimbus/bench/report"
)

// size is how much is done.
type size struct {
	Lines, Jobs, Orgs, Batch, Turns int
}

func sizes() size {
	if os.Getenv("QUICK") != "" {
		return size{Lines: 500_000, Jobs: 200, Orgs: 4, Batch: 10_000, Turns: 2}
	}
	return size{Lines: 5_000_000, Jobs: 200, Orgs: 4, Batch: 10_000, Turns: 3}
}

func main() {
	var err error
	switch {
	case len(os.Args) == 3 && os.Args[1] == "floor":
		err = tell(runFloor(os.Args[2], sizes()))
	case len(os.Args) == 3 && os.Args[1] == "store":
		err = tell(runStore(os.Args[2], sizes()))
	default:
		err = run(sizes())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-logs:", err)
		os.Exit(1)
	}
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench-logs: "+format+"\n", args...)
}

// result is what one turn tells.
type result struct {
	LinesPerS   float64 `json:"lines_per_s"`     // of the time that is measured
	LinesPerCPU float64 `json:"lines_per_cpu_s"` // of a second of CPU
	RawBytes    float64 `json:"raw_bytes"`
	DiskBytes   float64 `json:"disk_bytes"`
	RSS         float64 `json:"rss"` // the most that it had
	Job         float64 `json:"job_ms"`
	Tail        float64 `json:"tail_ms"`
	Search      float64 `json:"search_ms"`
	Absent      float64 `json:"absent_ms"` // a search that finds nothing
}

func tell(r result, err error) error {
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

func run(s size) (err error) {
	rep := report.New("logs")
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	// Beside the repository, not in a folder that may be memory.
	work, err := os.MkdirTemp(os.Getenv("BENCH_DIR"), "nimbus-bench-logs-")
	if err != nil {
		return fmt.Errorf("make work folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	turns := map[string][]result{}
	for i := range s.Turns {
		for _, what := range []string{"floor", "store"} {
			dir := filepath.Join(work, what)
			r, err := turn(self, what, dir)
			if err != nil {
				return fmt.Errorf("turn %d of the %s: %w", i+1, what, err)
			}
			progress("%d/%d %s: %.0f lines/s, %.0f per CPU second, disk %.3f, %.0f MB", i+1, s.Turns, what, r.LinesPerS, r.LinesPerCPU, r.DiskBytes/r.RawBytes, r.RSS/1e6)
			turns[what] = append(turns[what], r)
			if err := os.RemoveAll(dir); err != nil {
				return fmt.Errorf("clean up: %w", err)
			}
		}
	}
	w, err := runWhole(context.Background(), filepath.Join(work, "whole"), s)
	if err != nil {
		return fmt.Errorf("the whole way: %w", err)
	}
	progress("the whole way: %.0f lines/s, %.1f s of the server's CPU, a line seen after %.0f ms", w.LinesPerS, w.ServerCPU, w.FirstByteP99)
	return tellAll(rep, s, turns, w)
}

func turn(self, what, dir string) (r result, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return r, err
	}
	cmd := exec.Command(self, what, dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(out, &r)
}

func tellAll(rep *report.Report, s size, turns map[string][]result, w whole) error {
	of := func(what string, pick func(result) float64) (out []float64) {
		for _, r := range turns[what] {
			out = append(out, pick(r))
		}
		return out
	}
	atLeast := func(bound float64) func(v, ratio float64) bool {
		return func(_, ratio float64) bool { return ratio >= bound }
	}
	atMost := func(bound float64) func(v, ratio float64) bool { return func(v, _ float64) bool { return v <= bound } }
	const floor = "the same batches compressed, written and synced, and nothing else"
	rep.AddPaired("ingest_lines_per_s", "1/s", of("store", func(r result) float64 { return r.LinesPerS }), of("floor", func(r result) float64 { return r.LinesPerS }), floor,
		"ratio>=0.65", atLeast(0.65)).Rows = s.Lines
	rep.AddPaired("ingest_lines_per_cpu_s", "1/s", of("store", func(r result) float64 { return r.LinesPerCPU }), of("floor", func(r result) float64 { return r.LinesPerCPU }), floor,
		"", func(_, _ float64) bool { return true }).Rows = s.Lines
	rep.Add("disk_vs_raw", "", of("store", func(r result) float64 { return r.DiskBytes / r.RawBytes }), of("floor", func(r result) float64 { return r.DiskBytes / r.RawBytes }), floor,
		"value<=0.27", atMost(0.27))
	rep.Add("rss_mb", "MB", of("store", func(r result) float64 { return r.RSS / 1e6 }), nil, "", "value<=200", atMost(200))
	rep.Add("job_ms", "ms", of("store", func(r result) float64 { return r.Job }), nil, "", "value<=10", atMost(10)).Rows = s.Lines / s.Jobs
	rep.Add("tail_ms", "ms", of("store", func(r result) float64 { return r.Tail }), nil, "", "value<=2", atMost(2))
	rep.Add("search_ms", "ms", of("store", func(r result) float64 { return r.Search }), nil, "", "value<=250", atMost(250)).Rows = s.Lines / s.Orgs
	rep.Add("search_absent_ms", "ms", of("store", func(r result) float64 { return r.Absent }), nil, "", "value<=250", atMost(250)).Rows = s.Lines / s.Orgs
	rep.Add("e2e_lines_per_s", "1/s", []float64{w.LinesPerS}, of("floor", func(r result) float64 { return r.LinesPerS }), floor, "ratio>=0.25", atLeast(0.25)).Rows = w.Lines
	rep.Add("first_byte_p99_ms", "ms", []float64{w.FirstByteP99}, nil, "", "value<=400", atMost(400)).Rows = probes
	return rep.Write(os.Stdout)
}
