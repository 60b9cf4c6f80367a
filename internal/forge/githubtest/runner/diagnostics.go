package runner

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Places and bounds of the diagnostics, with the official runner's values.
const (
	diagnosticsDir = "_diag"
	pagesDir       = "pages"
	maxPage        = 8 << 20
	removeEvery    = time.Second // pages are "uploaded" and removed
	// uploadTakes is what the last pages stay for: the official runner makes four
	// calls to a remote service for each before it removes it.
	uploadTakes = 250 * time.Millisecond
)

// diagnostics are the files that the official runner leaves while it has a job:
// a log of its own, and pages of the job's log: every line goes to the page of
// its step and to that of the job. The official one writes pages through a
// buffer of 4 KiB; this one does not.
type diagnostics struct {
	pages    string
	timeline string
	worker   *os.File

	mu   sync.Mutex
	job  *record
	step *record
	done []string // pages that nothing is written to any more

	stop, stopped chan struct{}
	closing       sync.Once
}

// record is what has pages of its own.
type record struct {
	id     string
	file   *os.File
	number int
	size   int
	begun  bool // a line that has no end yet
}

func newDiagnostics(dir string) (*diagnostics, error) {
	dir = filepath.Join(dir, diagnosticsDir)
	d := &diagnostics{
		pages: filepath.Join(dir, pagesDir), timeline: newGUID(), job: &record{id: newGUID()},
		stop: make(chan struct{}), stopped: make(chan struct{}),
	}
	if err := os.MkdirAll(d.pages, 0o755); err != nil {
		return nil, fmt.Errorf("make the diagnostics folder: %w", err)
	}
	var err error
	name := "Worker_" + time.Now().UTC().Format("20060102-150405") + "-utc.log"
	if d.worker, err = os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err != nil {
		return nil, fmt.Errorf("open the worker's log: %w", err)
	}
	d.trace("JobRunner", "Job ID "+d.job.id)
	go d.removeLoop()
	return d, nil
}

func newGUID() string {
	b := make([]byte, 16)
	rand.Read(b) // never fails
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// trace writes a line of the worker's log. What can't be kept of diagnostics
// must not fail the job, here and below.
func (d *diagnostics) trace(source, text string) {
	_, _ = fmt.Fprintf(d.worker, "[%s INFO %s] %s\n", time.Now().UTC().Format("2006-01-02 15:04:05Z"), source, text)
}

// begin begins the pages of a step. The log names but the workflow's own.
func (d *diagnostics) begin(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.end(d.step)
	switch name {
	case setUpStep:
	case completeStep:
		d.trace("JobRunner", "Finalize job.")
	default:
		d.trace("StepsRunner", "Processing step: DisplayName='"+name+"'")
		d.trace("StepsRunner", "Starting the step.")
	}
	d.step = &record{id: newGUID()}
}

func (d *diagnostics) skip(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.trace("StepsRunner", "Processing step: DisplayName='"+name+"'")
	d.trace("StepsRunner", "Skipping step due to condition evaluation.")
}

// write adds lines, or a piece of one.
func (d *diagnostics) write(data []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for line := range bytes.Lines(data) {
		d.add(d.step, line)
		d.add(d.job, line)
	}
}

func (d *diagnostics) add(r *record, line []byte) {
	if r == nil {
		return
	}
	if r.file == nil {
		name := fmt.Sprintf("%s_%s_%d.log", d.timeline, r.id, r.number+1)
		f, err := os.OpenFile(filepath.Join(d.pages, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return
		}
		r.file, r.size = f, 0
		r.number++
		line = append([]byte("\ufeff"), stamped(line)...)
	} else if !r.begun {
		line = stamped(line)
	}
	n, _ := r.file.Write(line)
	r.begun = line[len(line)-1] != '\n'
	if r.size += n; r.size >= maxPage && !r.begun {
		d.end(r)
	}
}

// stamped puts the time before a line, to a ten millionth of a second.
func stamped(line []byte) []byte {
	return append([]byte(time.Now().UTC().Format("2006-01-02T15:04:05.0000000Z ")), line...)
}

// end closes a record's page.
func (d *diagnostics) end(r *record) {
	if r == nil || r.file == nil {
		return
	}
	d.done = append(d.done, r.file.Name())
	r.file.Close()
	r.file = nil
}

func (d *diagnostics) removeLoop() {
	defer close(d.stopped)
	ticker := time.NewTicker(removeEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			d.remove()
		case <-d.stop:
			time.Sleep(uploadTakes)
			d.remove()
			return
		}
	}
}

func (d *diagnostics) remove() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, name := range d.done {
		_ = os.Remove(name)
	}
	d.done = nil
}

// close ends all pages and removes them. Nothing is written after it.
func (d *diagnostics) close() {
	d.closing.Do(func() {
		d.mu.Lock()
		d.end(d.step)
		d.end(d.job)
		d.mu.Unlock()
		close(d.stop)
		<-d.stopped
		d.worker.Close()
	})
}
