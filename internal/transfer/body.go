package transfer

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Bounds hold who sends or takes bytes to going on: Idle is how long a client may
// send nothing, or take less than a MiB, before it is hung up on; Whole how long
// one transfer may take. Deadlines go by the machine's clock, as the kernel's do.
type Bounds struct{ Idle, Whole time.Duration }

// Upstream is the body of an upload, whose sender has to go on: each read has
// its own deadline, and all of it has one. It holds nothing in memory.
type Upstream struct {
	body io.Reader
	line *http.ResponseController
	idle time.Duration
	last time.Time // when all of it has to be there
	left int64     // how many bytes are still to come; -1: unknown
	end  error     // what every read returns from now on

	still func() error // whether the sender may go on; nil: always
	every time.Duration
	asked time.Time
}

// Upstream takes the body of a request. size is how long it says that it is,
// -1 when it does not.
func (b Bounds) Upstream(w http.ResponseWriter, r *http.Request, size int64) *Upstream {
	return &Upstream{body: r.Body, line: http.NewResponseController(w), idle: b.Idle, last: time.Now().Add(b.Whole), left: size}
}

// Asks has a sender who may no more, as still tells by unauthenticated or forbidden,
// be broken off: it is asked each time so much has passed since the last. A question
// that has no answer stops nobody.
func (u *Upstream) Asks(every time.Duration, still func() error) {
	u.still, u.every, u.asked = still, every, time.Now()
}

// mayGoOn is why the sender may not.
func (u *Upstream) mayGoOn() error {
	if u.still == nil || time.Since(u.asked) < u.every {
		return nil
	}
	u.asked = time.Now()
	err := u.still()
	if code := nimbus.ErrorCode(err); code == nimbus.CodeUnauthenticated || code == nimbus.CodeForbidden {
		return err
	}
	return nil
}

// Read implements io.Reader. Codes: cancelled when the sender is gone or too slow,
// invalid when it sent more or less than it said, and what Asks says.
func (u *Upstream) Read(p []byte) (int, error) {
	// From the end of a body on net/http reads itself, to see whether the caller is
	// still there: a deadline would end the request while its answer is worked out.
	if u.end != nil {
		return 0, u.end
	}
	if u.end = u.mayGoOn(); u.end != nil {
		return 0, u.end
	}
	n, err := u.read(p)
	u.end = err
	return n, err
}

func (u *Upstream) read(p []byte) (int, error) {
	until := time.Now().Add(u.idle)
	if u.last.Before(until) {
		until = u.last
	}
	if err := u.line.SetReadDeadline(until); err != nil {
		return 0, fmt.Errorf("bound how long an upload may take: %w", err)
	}
	n, err := u.body.Read(p)
	if u.left >= 0 {
		if u.left -= int64(n); u.left < 0 {
			return 0, nimbus.Errorf(nimbus.CodeInvalid, "more bytes came than the request says")
		}
	}
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, io.EOF):
		if u.left > 0 {
			return n, nimbus.Errorf(nimbus.CodeInvalid, "%d bytes fewer came than the request says", u.left)
		}
		return n, io.EOF
	case errors.Is(err, os.ErrDeadlineExceeded):
		return n, nimbus.Errorf(nimbus.CodeCancelled, "no byte came for %s, or not all of them in time", u.idle)
	}
	return n, nimbus.Errorf(nimbus.CodeCancelled, "the upload broke off: %w", err)
}

// maxLinger is how much of a body is taken and thrown away, so that its sender
// gets to read why: who is hung up on while it sends sees no answer, and version 1
// of @actions/cache crashes, and its job with it.
const maxLinger = 128 << 20

// Linger reads on where an upload was refused in the midst, and returns why it
// was.
func (u *Upstream) Linger(refused error) error {
	switch nimbus.ErrorCode(refused) {
	case nimbus.CodeTooLarge, nimbus.CodeConflict, nimbus.CodeForbidden, nimbus.CodeFenced, nimbus.CodeUnavailable:
		_, _ = io.CopyN(io.Discard, u, maxLinger) // or as much of it as comes
	}
	return refused
}

// InTime has a deadline on every body, also on one that nobody looks at.
func (b Bounds) InTime(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(b.Idle)) // who reads the body finds out
		}
		next.ServeHTTP(w, r)
	})
}

// ReadSmall reads a small body whole. Codes: too_large, invalid, cancelled.
func (b Bounds) ReadSmall(w http.ResponseWriter, r *http.Request, most int64) ([]byte, error) {
	u := b.Upstream(w, r, -1)
	u.body, u.last = http.MaxBytesReader(w, r.Body, most), time.Now().Add(b.Idle)
	body, err := io.ReadAll(u)
	if over := (*http.MaxBytesError)(nil); errors.As(err, &over) {
		return nil, nimbus.Errorf(nimbus.CodeTooLarge, "the request has more than %d bytes", most)
	}
	if err != nil {
		return nil, fmt.Errorf("read the call: %w", err)
	}
	return body, nil
}

// stride is how much a reader must take within Idle.
const stride = 1 << 20

// Downstream is a response whose reader has to go on. It passes files to the
// connection such that the kernel copies them.
type Downstream struct {
	to   http.ResponseWriter
	line *http.ResponseController
	idle time.Duration
	last time.Time
}

// Downstream takes the answer to a request.
func (b Bounds) Downstream(w http.ResponseWriter) *Downstream {
	return &Downstream{w, http.NewResponseController(w), b.Idle, time.Now().Add(b.Whole)}
}

func (d *Downstream) extend() error {
	until := time.Now().Add(d.idle)
	if d.last.Before(until) {
		until = d.last
	}
	if err := d.line.SetWriteDeadline(until); err != nil {
		return fmt.Errorf("bound how long a download may take: %w", err)
	}
	return nil
}

// Write implements io.Writer.
func (d *Downstream) Write(p []byte) (written int, err error) {
	for written < len(p) && err == nil {
		if err = d.extend(); err == nil {
			var n int
			n, err = d.to.Write(p[written:min(len(p), written+stride)])
			written += n
		}
	}
	return written, err
}

// ReadFrom implements io.ReaderFrom. net/http knows a file only directly in an
// io.LimitedReader: one around another would be copied by hand.
func (d *Downstream) ReadFrom(r io.Reader) (n int64, err error) {
	from, ok := d.to.(io.ReaderFrom)
	if !ok {
		return io.Copy(struct{ io.Writer }{d}, r)
	}
	limited, ok := r.(*io.LimitedReader)
	if !ok {
		limited = &io.LimitedReader{R: r, N: 1<<63 - 1}
	}
	for limited.N > 0 {
		if err := d.extend(); err != nil {
			return n, err
		}
		part := min(limited.N, stride)
		took, err := from.ReadFrom(&io.LimitedReader{R: limited.R, N: part})
		n += took
		limited.N -= took
		if err != nil || took < part {
			return n, err
		}
	}
	return n, nil
}
