// Package runnerlog makes the output of a GitHub job out of what GitHub's
// runner leaves in its diagnostics folder while the job runs:
//
//	_diag/Worker_*.log                          what the worker does: which job it has, which step begins
//	_diag/pages/{timeline}_{record}_{page}.log  the lines of a record, a step or the job, a time before each
//
// A page is written through a buffer of 4 KiB and removed within about a second
// of its end: lines come as they are flushed. Nothing of the format is
// documented by GitHub; it was read in actions/runner.
package runnerlog

import (
	"os"
	"slices"
	"time"
)

const (
	// lookEvery is how often it is looked without having been told of a change,
	// and where nothing tells of changes.
	lookEvery     = time.Second
	lookUnwatched = 200 * time.Millisecond
	// maxOpen bounds the steps' pages that are open at once. Lines of more are
	// found in the job's page.
	maxOpen = 256
	// maxNames bounds the names of pages that are remembered.
	maxNames = 10_000
	// stepDirective begins a step; internal/logs/lines reads it.
	stepDirective = "::nimbus-step::"
	pagesDir      = "pages"
)

// Tail follows one runner.
type Tail struct {
	show    func([]byte)
	roots   []*os.Root
	watch   *watch // nil where the kernel has no more of them
	worker  worker
	logs    map[string]*page // the worker's, by name
	names   map[string]bool  // of pages seen
	records []*record
	open    int
	ledger  *ledger
	current *step
	buf     []byte
	stop    chan struct{}
	done    chan struct{}
}

// Start follows a runner that is about to start, whose diagnostics folder is
// one of those named; those that can be are made. show takes output: whole
// lines, but for a very long one, which comes in pieces.
func Start(folders []string, show func([]byte)) (*Tail, error) {
	t, err := newTail(folders, show)
	if err != nil {
		return nil, err
	}
	go t.run()
	return t, nil
}

func newTail(folders []string, show func([]byte)) (*Tail, error) {
	t := &Tail{
		show: show, logs: map[string]*page{}, names: map[string]bool{}, ledger: newLedger(),
		buf: make([]byte, 32<<10), stop: make(chan struct{}), done: make(chan struct{}),
	}
	if w, err := newWatch(); err == nil { // a kernel has but so many: then without
		t.watch = w
	}
	for _, dir := range folders {
		if err := t.follow(dir); err != nil {
			t.close()
			return nil, err
		}
	}
	return t, nil
}

// Finish reads what is left of a runner that has ended, and ends. It returns
// whether the runner had a job.
func (t *Tail) Finish() (hadJob bool) {
	close(t.stop)
	<-t.done
	return t.worker.job != ""
}

func (t *Tail) run() {
	defer close(t.done)
	defer t.close()
	every, changed := lookUnwatched, (chan struct{})(nil)
	if t.watch != nil {
		every, changed = lookEvery, t.watch.changed
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-changed:
		case <-ticker.C:
		case <-t.stop:
			t.look()
			t.finish()
			return
		}
		t.look()
	}
}

func (t *Tail) unwatch() {
	if t.watch != nil {
		t.watch.close()
		t.watch = nil
	}
}

func (t *Tail) close() {
	t.unwatch()
	for _, r := range t.records {
		for _, p := range r.pages {
			p.file.Close()
		}
	}
	for _, p := range t.logs {
		p.file.Close()
	}
	for _, root := range t.roots {
		root.Close()
	}
}

// look shows what is new. The order matters: of a step that the log names, all
// pages of those before it are whole and listed after that; and the step of a
// page that is listed is named by the log that is read after that.
func (t *Tail) look() {
	t.readLogs()
	named := len(t.worker.steps)
	t.list()
	t.readLogs()
	if t.worker.job == "" {
		return
	}
	job := t.record(t.worker.job)
	for _, r := range t.records {
		r.peek()
	}
	slices.SortStableFunc(t.records, func(a, b *record) int {
		if a.first.IsZero() != b.first.IsZero() {
			if a.first.IsZero() {
				return 1
			}
			return -1
		}
		return a.first.Compare(b.first)
	})
	for _, r := range t.records {
		if r != job {
			r.read(t.buf, func(at time.Time, n line) { t.stepLine(r, at, n) })
		}
	}
	job.read(t.buf, t.jobLine)
	t.announce(t.worker.steps[:named])
	t.open = 0
	for _, r := range t.records {
		t.open += len(r.pages)
	}
}
