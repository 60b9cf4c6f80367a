package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/bench/report"
	"github.com/nimbus-ci/nimbus/internal/logs"
	"github.com/nimbus-ci/nimbus/internal/logs/segment"
)

// How often something is read, and what is looked for.
const (
	reads  = 20
	tailed = 500
	needle = "/file_77.cpp.o"
	absent = "there is no such line"
)

// runStore brings the lines to the store, one append for each job and batch, all of a
// batch at once, and reads them back.
func runStore(dir string, s size) (r result, err error) {
	ctx := context.Background()
	w := newWorld(s)
	store, err := segment.Open(dir, 1<<40)
	if err != nil {
		return r, err
	}
	var m meter
	for batch := w.batch(); batch != nil; batch = w.batch() {
		err := m.measure(func() error {
			work := errgroup.Group{}
			for job, lines := range batch {
				work.Go(func() error {
					acked, err := store.Append(ctx, w.keys[job], lines)
					if err == nil && acked != lines[len(lines)-1].Seq {
						err = fmt.Errorf("line %d of %d is acknowledged", acked, lines[len(lines)-1].Seq)
					}
					return err
				})
			}
			return work.Wait()
		})
		if err != nil {
			return r, err
		}
		for _, lines := range batch {
			m.lines += len(lines)
			for _, l := range lines {
				m.raw += int64(len(l.Text)) + 1
			}
		}
	}
	if err := m.measure(store.Close); err != nil {
		return r, err
	}
	if r, err = m.result(dir); err != nil {
		return r, err
	}
	if store, err = segment.Open(dir, 1<<40); err != nil {
		return r, err
	}
	defer store.Close()
	return r, readBack(ctx, store, w, &r)
}

// readBack reads as people do: a job from its first line to its last, a page of a
// thousand lines after the other; its end; an org's lines that hold a word.
func readBack(ctx context.Context, store *segment.Store, w *world, r *result) (err error) {
	if r.Job, err = timed(func(i int) error { return readJob(ctx, store, w, i) }); err != nil {
		return err
	}
	if r.Tail, err = timed(func(i int) error {
		key := w.keys[(i*7)%len(w.keys)]
		last, err := store.Acked(ctx, key)
		if err == nil {
			_, err = store.Read(ctx, key, last-tailed+1, tailed)
		}
		return err
	}); err != nil {
		return err
	}
	search := func(text string, finds bool) (float64, error) {
		return timed(func(i int) error {
			page, err := store.Search(ctx, w.keys[i%w.size.Orgs].OrgID, logs.Query{Text: text})
			if err == nil && (page.Next != "" && !finds || (len(page.Found) > 0) != finds) {
				err = fmt.Errorf("a search for %q found %d lines", text, len(page.Found))
			}
			return err
		})
	}
	if r.Search, err = search(needle, true); err != nil {
		return err
	}
	r.Absent, err = search(absent, false)
	return err
}

func readJob(ctx context.Context, store *segment.Store, w *world, i int) error {
	job := (i * 11) % len(w.keys)
	read := int64(0)
	for {
		var lines []nimbus.Line
		lines, err := store.Read(ctx, w.keys[job], read+1, 1000)
		if err != nil {
			return err
		}
		if read += int64(len(lines)); len(lines) == 0 {
			break
		}
	}
	if read != w.next[job] {
		return fmt.Errorf("job %d has %d lines of %d", job, read, w.next[job])
	}
	return nil
}

// timed is the median time of something, in milliseconds.
func timed(do func(i int) error) (float64, error) {
	var samples []float64
	for i := range reads {
		began := time.Now()
		if err := do(i); err != nil {
			return 0, err
		}
		samples = append(samples, float64(time.Since(began).Microseconds())/1000)
	}
	return report.Median(samples), nil
}
