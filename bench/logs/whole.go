package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/bench/process"
	"github.com/nimbus-ci/nimbus/bench/replica"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/logs/wal"
	"github.com/nimbus-ci/nimbus/internal/wire"
	"github.com/nimbus-ci/nimbus/test/simhost"
)

// What the whole way is measured with.
const (
	wholeJobs  = 20
	writeLines = 500     // that a job's host takes in at once
	shipBytes  = 1 << 20 // as the agent
	probes     = 300
	probePause = 20 * time.Millisecond
	walLimit   = 64 << 20
)

// whole is what the way from a job's output to a reader costs.
type whole struct {
	LinesPerS, FirstByteP99, ServerCPU float64
	Lines                              int
}

// runWhole brings lines through the host's log on disk, which is synced, and the calls
// of the agent to the built program; meanwhile one more job writes a line now and then,
// and somebody reads along.
func runWhole(ctx context.Context, dir string, s size) (r whole, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return r, fmt.Errorf("make work folder: %w", err)
	}
	plane, err := replica.Start(ctx, dir, "")
	if err != nil {
		return r, err
	}
	defer plane.Stop()
	hosts, err := replica.Join(ctx, plane.Client, 1, wholeJobs+1)
	if err != nil {
		return r, err
	}
	h := hosts[0]
	jobs, err := takeJobs(ctx, plane.Client, h, filepath.Join(dir, "host"))
	if err != nil {
		return r, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go renew(ctx, h)
	before, err := process.CPU(plane.PID())
	if err != nil {
		return r, err
	}
	s.Jobs, s.Lines = wholeJobs, s.Lines/5
	var busy atomic.Bool
	busy.Store(true)
	work, workCtx := errgroup.WithContext(ctx)
	work.Go(func() (err error) {
		r.FirstByteP99, err = jobs[wholeJobs].probe(workCtx, plane.Client, &busy)
		return err
	})
	took, err := writeAll(workCtx, jobs[:wholeJobs], s)
	busy.Store(false)
	if err := errors.Join(err, work.Wait()); err != nil {
		return r, err
	}
	after, err := process.CPU(plane.PID())
	r.LinesPerS, r.Lines, r.ServerCPU = float64(s.Lines)/took.Seconds(), s.Lines, (after - before).Seconds()
	return r, err
}

func renew(ctx context.Context, h *simhost.Host) {
	for ctx.Err() == nil {
		_, _ = h.Heartbeat(ctx) // the next one may come through
		time.Sleep(5 * time.Second)
	}
}

// hosted is a job as its host has it.
type hosted struct {
	id   string
	host *simhost.Host
	lock *nimbusv1.Lease
	log  *wal.Log
}

func takeJobs(ctx context.Context, cl *client.Client, h *simhost.Host, dir string) (jobs []*hosted, err error) {
	for range wholeJobs + 1 {
		j, err := cl.Submit(ctx, client.Submission{Spec: nimbus.Spec{Command: []string{"true"}, Timeout: 24 * time.Hour}})
		if err != nil {
			return nil, fmt.Errorf("submit: %w", err)
		}
		taken := len(jobs)
		for len(jobs) == taken {
			offers, err := h.Poll(ctx, time.Second)
			if err != nil {
				return nil, fmt.Errorf("poll: %w", err)
			}
			for _, o := range offers {
				h.Hold(o.GetLease())
				if _, err := h.Accept(ctx, o.GetLease()); err != nil {
					return nil, fmt.Errorf("accept: %w", err)
				}
				log, err := wal.Open(filepath.Join(dir, o.GetLease().GetAttemptId()), walLimit)
				if err != nil {
					return nil, err
				}
				jobs = append(jobs, &hosted{id: j.ID, host: h, lock: o.GetLease(), log: log})
			}
		}
	}
	return jobs, nil
}

// writeAll writes the lines of all jobs at once, and returns how long it took until the
// server had acknowledged the last.
func writeAll(ctx context.Context, jobs []*hosted, s size) (took time.Duration, err error) {
	w := newWorld(s)
	texts := make([][]nimbus.Line, len(jobs))
	for batch := w.batch(); batch != nil; batch = w.batch() {
		for job, lines := range batch {
			texts[job] = append(texts[job], lines...)
		}
	}
	began := time.Now()
	work, ctx := errgroup.WithContext(ctx)
	for i, j := range jobs {
		work.Go(func() error {
			for lines := range slices.Chunk(texts[i], writeLines) {
				if err := j.write(lines); err != nil {
					return err
				}
			}
			return nil
		})
		work.Go(func() error { return j.ship(ctx, int64(len(texts[i]))) })
	}
	err = work.Wait()
	return time.Since(began), err
}

func (j *hosted) write(lines []nimbus.Line) error {
	for j.log.Full() {
		<-j.log.Changed()
	}
	return j.log.Append(lines, wal.Checkpoint{})
}

// ship sends lines as the agent's loop does, until so many are acknowledged.
func (j *hosted) ship(ctx context.Context, total int64) error {
	for j.log.Acked() < total {
		changed := j.log.Changed()
		acked := j.log.Acked()
		if last, _ := j.log.Last(); acked >= last {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		page, err := j.log.Read(acked+1, shipBytes)
		if err != nil {
			return err
		}
		r := &nimbusv1.AppendLogRequest{Lease: j.lock}
		for _, l := range page {
			r.Lines = append(r.Lines, wire.Line(l))
		}
		answer, err := j.host.API.AppendLog(ctx, connect.NewRequest(r))
		if err != nil {
			return fmt.Errorf("ship lines: %w", err)
		}
		if err := j.log.Acknowledge(answer.Msg.GetAcknowledgedSeq()); err != nil {
			return err
		}
	}
	return nil
}

// probe writes a line now and then while the others write, and tells how long it took,
// of 99 of 100, until somebody who reads along saw it, in milliseconds.
func (j *hosted) probe(ctx context.Context, cl *client.Client, busy *atomic.Bool) (p99 float64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	seen, failed := make(chan int64, probes), make(chan error, 2)
	go func() {
		for e, err := range cl.FollowLog(ctx, j.id) {
			if err != nil {
				failed <- err
				return
			}
			if e.Kind == client.LogLine {
				seen <- e.Line.Seq
			}
		}
	}()
	go func() { failed <- j.ship(ctx, probes+1) }()
	var samples []float64
	for seq := int64(1); seq <= probes && (busy.Load() || seq <= probes/3); seq++ {
		began := time.Now()
		if err := j.write([]nimbus.Line{{Seq: seq, At: began, Stream: nimbus.StreamStdout, Text: "a line"}}); err != nil {
			return 0, err
		}
		select {
		case <-seen:
		case err := <-failed:
			return 0, err
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		if seq > 1 { // the first waits for the stream, too
			samples = append(samples, float64(time.Since(began).Microseconds())/1000)
		}
		time.Sleep(probePause)
	}
	slices.Sort(samples)
	fmt.Fprintf(os.Stderr, "bench-logs: %d lines were followed\n", len(samples))
	return samples[len(samples)*99/100], nil
}
