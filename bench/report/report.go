// Package report is how every program under bench/ tells its figures: progress
// on stderr, one JSON object as the last line on stdout, and the same line
// appended to bench/results/NAME.jsonl. See docs/benchmarks.md.
package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Figure is one measured value beside the floor of the same run.
type Figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"` // median of the samples
	Unit  string  `json:"unit"`
	Min   float64 `json:"min"`
	Max   float64 `json:"max"`
	// Floor is the median of the least that the work could cost; 0 when the
	// figure has none.
	Floor     float64 `json:"floor,omitempty"`
	FloorWhat string  `json:"floor_what,omitempty"`
	Ratio     float64 `json:"ratio,omitempty"` // value ÷ floor
	Goal      string  `json:"goal,omitempty"`
	// Rows is the size that it was measured at, where that can vary.
	Rows int  `json:"rows,omitempty"`
	OK   bool `json:"ok"`
}

// Report collects a program's figures.
type Report struct {
	name    string
	started time.Time
	figures []*Figure
}

// New starts a report under the name of its make target, without "bench-".
func New(name string) *Report { return &Report{name: name, started: time.Now()} }

// Add computes a figure from interleaved samples of the work and of its floor
// (nil for none). ok judges it by the goal written in words. The figure may be
// told its Rows.
func (r *Report) Add(name, unit string, samples, floor []float64, floorWhat, goal string, ok func(value, ratio float64) bool) *Figure {
	f := &Figure{
		Name: name, Unit: unit, Goal: goal, FloorWhat: floorWhat,
		Value: Median(samples), Min: slices.Min(samples), Max: slices.Max(samples),
	}
	if len(floor) > 0 {
		f.Floor = Median(floor)
		if f.Floor != 0 {
			f.Ratio = round(f.Value / f.Floor)
		}
	}
	f.OK = ok(f.Value, f.Ratio)
	f.Value, f.Min, f.Max, f.Floor = round(f.Value), round(f.Min), round(f.Max), round(f.Floor)
	r.figures = append(r.figures, f)
	return f
}

// AddPaired is Add of samples of which each was taken beside one of the floor: the
// ratio is the median of theirs, from which a load that comes and goes is gone.
func (r *Report) AddPaired(name, unit string, samples, floor []float64, floorWhat, goal string, ok func(value, ratio float64) bool) *Figure {
	ratios := make([]float64, 0, len(samples))
	for i, s := range samples {
		if floor[i] != 0 {
			ratios = append(ratios, s/floor[i])
		}
	}
	f := r.Add(name, unit, samples, floor, floorWhat, goal, ok)
	if len(ratios) > 0 {
		f.Ratio = round(Median(ratios))
		f.OK = ok(f.Value, f.Ratio)
	}
	return f
}

// Median returns the middle of the samples; it panics when there are none.
func Median(samples []float64) float64 {
	sorted := slices.Sorted(slices.Values(samples))
	mid := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[mid]
	}
	return (sorted[mid-1] + sorted[mid]) / 2
}

func round(v float64) float64 { return math.Round(v*1000) / 1000 }

// Write prints the report's line to out and appends it to the results.
func (r *Report) Write(out io.Writer) error {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false) // goals read "value < 1000"
	err := enc.Encode(map[string]any{
		"bench":   r.name,
		"commit":  commit(),
		"cpus":    runtime.NumCPU(),
		"load":    load(),
		"seconds": round(time.Since(r.started).Seconds()),
		"figures": r.figures,
	})
	if err != nil {
		return fmt.Errorf("encode report: %w", err)
	}
	line := buf.Bytes()
	if err := appendTo(filepath.Join("bench", "results", r.name+".jsonl"), line); err != nil {
		return err
	}
	if _, err := out.Write(line); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

func appendTo(path string, line []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make results folder: %w", err)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open results: %w", err)
	}
	defer f.Close()
	if _, err := f.Write(line); err != nil {
		return fmt.Errorf("append to results: %w", err)
	}
	return nil
}

// commit is what the tree is at; empty outside a checkout.
func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// load is the machine's one-minute load average.
func load() float64 {
	raw, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(raw), " ")
	v, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0
	}
	return v
}
