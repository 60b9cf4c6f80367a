package runnerlog

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// flushAt is the size of the official runner's buffer.
const flushAt = 4 << 10

// fake writes diagnostics as the official runner does, buffers included.
type fake struct {
	t     rapid.TB
	diag  string
	now   time.Time
	job   *fakeRecord
	step  *fakeRecord
	ids   int
	trace *os.File
}

type fakeRecord struct {
	id   string
	page int
	file *os.File
	buf  bytes.Buffer
}

func newFake(t rapid.TB, diag string) *fake {
	t.Helper()
	f := &fake{t: t, diag: diag, now: time.Date(2026, 8, 17, 14, 15, 44, 0, time.UTC)}
	f.job = f.record()
	return f
}

func (f *fake) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fake) record() *fakeRecord {
	f.ids++
	return &fakeRecord{id: fmt.Sprintf("%08x-0000-4000-8000-000000000000", f.ids)}
}

// say writes to the worker's log, which is not buffered.
func (f *fake) say(source, text string) {
	f.t.Helper()
	if f.trace == nil {
		var err error
		f.trace, err = os.Create(filepath.Join(f.diag, "Worker_20260817-141544-utc.log"))
		f.must(err)
	}
	_, err := fmt.Fprintf(f.trace, "[%s INFO %s] %s\n", f.now.Format("2006-01-02 15:04:05Z"), source, text)
	f.must(err)
}

func (f *fake) start() {
	f.say("Worker", "Job message:\n {\n  \"jobId\": \"none of our business\"\n}")
	f.say("JobRunner", "Job ID "+f.job.id)
	f.step = f.record()
}

func (f *fake) begin(name string) {
	f.say("StepsRunner", "Processing step: DisplayName='"+name+"'")
	f.say("StepsRunner", "Starting the step.")
	f.step = f.record()
}

func (f *fake) finalize() {
	f.say("JobRunner", "Finalize job.")
	f.step = f.record()
}

// write writes lines to the page of the step, then to that of the job.
func (f *fake) write(lines ...string) {
	f.t.Helper()
	for _, text := range lines {
		f.add(f.step, text)
		f.add(f.job, text)
	}
}

func (f *fake) add(r *fakeRecord, text string) {
	if r.file == nil {
		r.page++
		var err error
		name := fmt.Sprintf("00000000-1111-4000-8000-000000000000_%s_%d.log", r.id, r.page)
		r.file, err = os.OpenFile(filepath.Join(f.diag, pagesDir, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		f.must(err)
		r.buf.WriteString(byteOrderMark)
	}
	f.now = f.now.Add(100 * time.Nanosecond)
	r.buf.WriteString(f.now.Format("2006-01-02T15:04:05.0000000Z ") + text + "\n")
	for r.buf.Len() >= flushAt {
		_, err := r.file.Write(r.buf.Next(flushAt))
		f.must(err)
	}
}

// end flushes and closes a record's page and returns its path.
func (f *fake) end(r *fakeRecord) string {
	f.t.Helper()
	_, err := r.file.Write(r.buf.Bytes())
	f.must(err)
	r.buf.Reset()
	f.must(r.file.Close())
	path := r.file.Name()
	r.file = nil
	return path
}

// shown is what a Tail has put out.
type shown struct {
	mu   sync.Mutex
	text strings.Builder
	new  chan struct{}
}

func (s *shown) add(b []byte) {
	s.mu.Lock()
	s.text.Write(b)
	s.mu.Unlock()
	select {
	case s.new <- struct{}{}:
	default:
	}
}

func (s *shown) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// await waits until a text is shown.
func (s *shown) await(t *testing.T, text string) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for !strings.Contains(s.String(), text) {
		select {
		case <-s.new:
		case <-deadline:
			t.Fatalf("%q is not shown; what is:\n%.4000s", text, s)
		}
	}
}

// follow starts a Tail of a fake runner.
func follow(t *testing.T, edit ...func(*Tail)) (*Tail, *fake, *shown) {
	t.Helper()
	diag := filepath.Join(t.TempDir(), "_diag")
	out := &shown{new: make(chan struct{}, 1)}
	tail, err := newTail([]string{diag}, out.add)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range edit {
		e(tail)
	}
	go tail.run()
	return tail, newFake(t, diag), out
}

func mkfifo(path string) error { return unix.Mkfifo(path, 0o600) }
