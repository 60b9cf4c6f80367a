package demo

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
)

// Times of watching.
const (
	// abandonTimeout is how long jobs that are given up may take to end.
	abandonTimeout = 30 * time.Second
	pollInterval   = 100 * time.Millisecond
	// patience is how long jobs may be unschedulable until that is their end.
	patience = 5 * time.Second
	// tellEvery is after how long without a change it is told what is waited for.
	tellEvery = 20 * time.Second
)

// watch shows the logs of all jobs of the runs, until every job has ended and
// its sandbox is gone, or nothing can run them. It returns the jobs as they
// are then, oldest first; also when ctx ended.
func (d *demo) watch(ctx context.Context) ([]nimbus.Job, error) {
	var logs sync.WaitGroup
	defer logs.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends logs that have no end

	seen := map[string]bool{}
	var jobs []nimbus.Job
	var stuckSince time.Time
	waits := waiting{screen: d.screen}
	for {
		page, err := d.client.Jobs(ctx, client.JobFilter{PageSize: 200})
		if err != nil {
			return jobs, fmt.Errorf("list jobs: %w", err)
		}
		jobs = oldestFirst(page.Jobs)
		for _, j := range jobs {
			if !seen[j.ID] {
				seen[j.ID] = true
				v := d.screen.voice(j.Name)
				logs.Go(func() { d.show(ctx, v, j.ID) })
			}
		}
		open, stuck := d.open(jobs)
		if len(open) == 0 {
			return jobs, nil
		}
		waits.tell(strings.Join(open, "; "), time.Now())
		switch {
		case stuck < len(open):
			stuckSince = time.Time{}
		case stuckSince.IsZero():
			stuckSince = time.Now()
		case time.Since(stuckSince) > patience:
			return jobs, nil
		}
		select {
		case <-ctx.Done():
			return jobs, context.Cause(ctx)
		case <-time.After(pollInterval):
		}
	}
}

func oldestFirst(jobs []nimbus.Job) []nimbus.Job {
	out := make([]nimbus.Job, len(jobs))
	for i, j := range jobs {
		out[len(jobs)-1-i] = j
	}
	return out
}

// waiting tells what is waited for where that takes long.
type waiting struct {
	screen *screen
	what   string
	told   time.Time
}

func (w *waiting) tell(what string, now time.Time) {
	if what != w.what {
		w.what, w.told = what, now
	}
	if now.Sub(w.told) >= tellEvery {
		w.told = now
		w.screen.say("%s", w.screen.style.Quiet("waiting: "+terminal.OneLine(what)))
	}
}

// open tells what has not ended yet: jobs of the double's runs that Nimbus has
// not heard of, jobs that run, sandboxes that are there. Of these, stuck are
// those that nothing can run.
func (d *demo) open(jobs []nimbus.Job) (open []string, stuck int) {
	heard := map[int64]bool{}
	for _, j := range jobs {
		heard[j.GitHub.JobID] = true
		accepted := !j.Timeline.AcceptedAt.IsZero()
		switch {
		case j.State == nimbus.StateUnschedulable:
			stuck++
			open = append(open, j.Name+" can't start")
		case j.State != nimbus.StateFinished:
			open = append(open, fmt.Sprintf("%s is %s", j.Name, j.State))
		case accepted && j.Timeline.DestroyedAt.IsZero():
			open = append(open, j.Name+" has ended, its sandbox is there")
		case accepted && !j.LogComplete:
			open = append(open, fmt.Sprintf("%s has ended, of its log there are %d lines", j.Name, j.LogLines))
		}
	}
	for _, id := range d.runIDs {
		run, _ := d.double.Run(id)
		for _, j := range run.Jobs {
			// A job that waits for a stuck one is stuck with it.
			if heard[j.ID] || j.Status == "completed" {
				continue
			}
			open = append(open, fmt.Sprintf("%s is %s at GitHub", j.Name, j.Status))
			if j.Status == "blocked" {
				stuck++
			}
		}
	}
	return open, stuck
}

// abandon cancels what still runs, so that nothing of it outlives the demo, and
// waits for its end.
func (d *demo) abandon(ctx context.Context, jobs []nimbus.Job) {
	ctx, cancel := context.WithTimeout(ctx, abandonTimeout)
	defer cancel()
	for _, j := range jobs {
		if j.State == nimbus.StateFinished {
			continue
		}
		if _, err := d.client.Cancel(ctx, j.ID); err != nil {
			d.problem("%s can't be cancelled: %s", terminal.OneLine(j.Name), err)
		}
	}
	for _, j := range jobs {
		for !d.gone(ctx, j.ID) {
			select {
			case <-ctx.Done():
				d.problem("%s did not end when it was cancelled", terminal.OneLine(j.Name))
				return
			case <-time.After(pollInterval):
			}
		}
	}
}

// gone tells whether a job has ended and its sandbox is destroyed.
func (d *demo) gone(ctx context.Context, jobID string) bool {
	j, err := d.client.Job(ctx, jobID)
	return err == nil && j.State == nimbus.StateFinished && (j.Timeline.AcceptedAt.IsZero() || !j.Timeline.DestroyedAt.IsZero())
}

// show follows one job's log. GitHub may give a runner another job than the one
// it was made for: the log is that of the other job then, and comes with its
// attempt. So lines are held back until it is proved whose they are.
func (d *demo) show(ctx context.Context, v voice, jobID string) {
	var held []nimbus.Line
	attemptID, proved := "", false
	for e, err := range d.client.FollowLog(ctx, jobID) {
		if err != nil {
			if ctx.Err() == nil {
				v.note("its log can't be read: %s", err)
			}
			return
		}
		switch e.Kind {
		case client.LogAttempt:
			if proved {
				v.note("it begins anew")
			}
			attemptID, proved, held = e.AttemptID, false, nil
		case client.LogLine:
			held = append(held, e.Line)
			proved = proved || d.proved(ctx, jobID, attemptID)
		case client.LogComplete:
			proved = true
			if !e.Whole {
				defer v.note("the end of its log is missing")
			}
		case client.LogDamaged:
			v.note("%s", e.Err)
		case client.LogInterrupted:
		}
		if proved {
			for _, l := range held {
				v.line(l)
			}
			held = nil
		}
	}
}

// proved tells whether an attempt is known to run the job.
func (d *demo) proved(ctx context.Context, jobID, attemptID string) bool {
	j, err := d.client.Job(ctx, jobID)
	return err == nil && j.AttemptID == attemptID && !j.Timeline.RunningAt.IsZero()
}
