package guest

import (
	"errors"
	"io"
	"os"
	"testing"
	"time"
)

// TestOutletCounts: what the job wrote is waited for wherever it is: in the pipe, read
// from it, or in the events.
func TestOutletCounts(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	o := &outlet{file: r}
	write := func(text string) {
		t.Helper()
		if _, err := w.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	wants := func(where string, written int64, has bool) {
		t.Helper()
		if n := o.written(); n != written || o.has(n) != has {
			t.Errorf("%s: %d bytes are written, waited for: %t; want %d, %t", where, n, !o.has(n), written, !has)
		}
	}
	wants("nothing", 0, true)
	write("0123456789")
	wants("in the pipe", 10, false)
	buf := make([]byte, 6)
	if n, err := o.Read(buf); n != 6 || err != nil {
		t.Fatal(n, err)
	}
	wants("in part read", 10, false)
	if n, err := o.Read(buf); n != 4 || err != nil {
		t.Fatal(n, err)
	}
	wants("read", 10, false)
	o.pass(10)
	wants("in the events", 10, true)
	write("more")
	wants("in the pipe again", 14, false)
	if !o.has(10) {
		t.Error("what came before it is waited for again")
	}
	if _, err := o.Read(buf); err != nil {
		t.Fatal(err)
	}
	if err := r.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("past its deadline: %v", err)
	}
	if err := errors.Join(r.SetReadDeadline(time.Time{}), w.Close()); err != nil {
		t.Fatal(err)
	}
	if n, err := o.Read(buf); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("at its end: %d, %v", n, err)
	}
	o.close()
	wants("closed", 14, true)
}

// TestTelemetryWaitsForOutput: a request is handed on once the output is in the events
// that was written before it, with the number of the last of them.
func TestTelemetryWaitsForOutput(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	e := newEvents()
	e.output("stdout", []byte("before"))
	job, in := &process{events: e, pipes: []*outlet{{file: r}}}, newReceiver(e)
	defer job.closePipes()
	in.job.Store(job)
	if _, err := w.WriteString("::add-mask::hide-me\n"); err != nil {
		t.Fatal(err)
	}
	p := &parcel{body: []byte("hide-me")}
	if !in.put(p, 0) {
		t.Fatal("it was refused")
	}
	if got := in.next(t.Context(), 0); got != nil {
		t.Error("it was handed on before the output")
	}
	got := make(chan *parcel, 1)
	go func() { got <- in.next(t.Context(), time.Minute) }()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	job.read(job.pipes[0], "stdout")
	if p := <-got; p == nil || p.outputSeq != 2 {
		t.Errorf("handed on: %+v", p)
	}
}
