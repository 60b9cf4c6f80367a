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
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	// lookEvery is how often it is looked without having been told of a change.
	lookEvery = time.Second
	// maxOpen bounds the pages that are open at once. Lines of more are found
	// in the job's page.
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
	watch   *watch
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
	w, err := newWatch()
	if err != nil {
		return nil, err
	}
	t := &Tail{
		show: show, watch: w, logs: map[string]*page{}, names: map[string]bool{}, ledger: newLedger(),
		buf: make([]byte, 32<<10), stop: make(chan struct{}), done: make(chan struct{}),
	}
	for _, dir := range folders {
		if err := t.follow(dir); err != nil {
			t.close()
			return nil, err
		}
	}
	return t, nil
}

// follow makes a folder and watches it, unless what it would lie in is missing.
func (t *Tail) follow(dir string) error {
	parent, err := os.Stat(filepath.Dir(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find the runner's folder: %w", err)
	}
	for _, d := range []string{dir, filepath.Join(dir, pagesDir)} {
		if err := makeFolder(d, parent); err != nil {
			return err
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("open the runner's diagnostics: %w", err)
	}
	t.roots = append(t.roots, root)
	return errors.Join(t.watch.add(dir), t.watch.add(filepath.Join(dir, pagesDir)))
}

// makeFolder makes a folder for the owner of the runner, who will write there.
func makeFolder(dir string, owner fs.FileInfo) error {
	err := os.Mkdir(dir, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if sys, ok := owner.Sys().(*syscall.Stat_t); ok && err == nil && os.Geteuid() == 0 {
		err = os.Lchown(dir, int(sys.Uid), int(sys.Gid))
	}
	if err != nil {
		return fmt.Errorf("make the runner's diagnostics folder: %w", err)
	}
	return nil
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
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-t.watch.changed:
		case <-ticker.C:
		case <-t.stop:
			t.look()
			t.finish()
			return
		}
		t.look()
	}
}

func (t *Tail) close() {
	t.watch.close()
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

// list opens the pages that are new.
func (t *Tail) list() {
	for _, root := range t.roots {
		dir, err := root.Open(pagesDir)
		if err != nil {
			continue // the job may do with it what it likes
		}
		names, _ := dir.Readdirnames(maxNames) // what could be read
		dir.Close()
		for _, name := range names {
			id, number, ok := parseName(name)
			if !ok || t.names[name] || t.open >= maxOpen || len(t.names) >= maxNames {
				continue
			}
			p, err := openPage(root, filepath.Join(pagesDir, name))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			t.names[name] = true
			if err != nil {
				continue
			}
			t.record(id).pages[number] = p
			t.open++
		}
	}
}

func (t *Tail) record(id string) *record {
	for _, r := range t.records {
		if r.id == id {
			return r
		}
	}
	r := &record{id: id, pages: map[int]*page{}, next: 1}
	t.records = append(t.records, r)
	return r
}

// maxLogs bounds the worker's logs: it begins another one at 8 MiB.
const maxLogs = 64

func (t *Tail) readLogs() {
	for _, root := range t.roots {
		dir, err := root.Open(".")
		if err != nil {
			continue
		}
		names, _ := dir.Readdirnames(maxNames)
		dir.Close()
		slices.Sort(names) // their names have the time
		for _, name := range names {
			if !strings.HasPrefix(name, "Worker_") || !strings.HasSuffix(name, ".log") {
				continue
			}
			if t.logs[name] == nil && len(t.logs) < maxLogs {
				if p, err := openPage(root, name); err == nil {
					t.logs[name] = p
				}
			}
			if p := t.logs[name]; p != nil {
				_ = p.read(t.buf, func(_ time.Time, n line) { t.worker.take(n.text) }) // what could be read
			}
		}
	}
}

// stepLine shows a line of a step's page.
func (t *Tail) stepLine(r *record, at time.Time, n line) {
	if !r.begun {
		r.begun, r.step = true, t.worker.assign(at, n.text)
	}
	if !t.ledger.step(n) {
		return
	}
	if r.step != nil && r.step != t.current {
		t.announce(t.worker.steps[:slices.Index(t.worker.steps, r.step)])
		t.head(r.step) // again, if another one runs beside it
	}
	t.text(n)
}

func (t *Tail) jobLine(_ time.Time, n line) {
	for _, missed := range t.ledger.job(n) {
		t.text(missed)
	}
}

// announce shows the names of steps that the runner has begun.
func (t *Tail) announce(steps []*step) {
	for _, s := range steps {
		if !s.shown && s.runs {
			t.head(s)
		}
	}
}

func (t *Tail) head(s *step) {
	s.shown, t.current = true, s
	t.show([]byte(stepDirective + s.name + "\n"))
}

func (t *Tail) text(n line) {
	if n.more {
		t.show([]byte(n.text))
		return
	}
	t.show([]byte(n.text + "\n"))
}

// finish shows what had no end yet, and what the job's page alone has.
func (t *Tail) finish() {
	if t.worker.job == "" {
		t.showLargest()
		return
	}
	job := t.record(t.worker.job)
	for _, r := range t.records {
		if r != job {
			r.finish(func(at time.Time, n line) { t.stepLine(r, at, n) })
		}
	}
	job.finish(t.jobLine)
	for _, n := range t.ledger.rest() {
		t.text(n)
	}
}

// showLargest is for a runner whose log did not say which job it had: the
// largest record is the job's, since it has what all others have.
func (t *Tail) showLargest() {
	var largest *record
	for _, r := range t.records {
		if largest == nil || r.size() > largest.size() {
			largest = r
		}
	}
	if largest == nil {
		return
	}
	show := func(_ time.Time, n line) { t.text(n) }
	largest.read(t.buf, show)
	largest.finish(show)
}

