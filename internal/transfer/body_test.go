package transfer

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// kernel is a response that notes what would be copied by the kernel: files in at
// most one io.LimitedReader.
type kernel struct {
	http.ResponseWriter

	body   bytes.Buffer
	parts  int
	byHand int
}

func (k *kernel) SetWriteDeadline(time.Time) error { return nil }

func (k *kernel) ReadFrom(r io.Reader) (int64, error) {
	limited, ok := r.(*io.LimitedReader)
	if _, file := limited.R.(*os.File); !ok || !file {
		k.byHand++
	}
	k.parts++
	return k.body.ReadFrom(r)
}

// bounds are as those who serve have them, where a test doesn't say.
func bounds(idle, whole time.Duration) Bounds {
	return Bounds{Idle: cmp.Or(idle, time.Minute), Whole: cmp.Or(whole, time.Hour)}
}

// TestWhoMayNoMoreIsBrokenOff: it is asked each time that a while has passed, and a
// question without an answer stops nobody.
func TestWhoMayNoMoreIsBrokenOff(t *testing.T) {
	t.Parallel()
	ended := nimbus.Errorf(nimbus.CodeUnauthenticated, "the job has ended")
	for _, c := range []struct {
		every time.Duration
		still error
		want  error
	}{
		{0, ended, ended},
		{0, nil, nil},
		{0, errors.New("the database is away"), nil},
		{time.Hour, ended, nil},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			u := bounds(0, 0).Upstream(w, r, r.ContentLength)
			u.Asks(c.every, func() error { return c.still })
			if _, err := io.Copy(io.Discard, u); !errors.Is(err, c.want) {
				t.Errorf("asked each %s, %v: %v", c.every, c.still, err)
			}
		}))
		answer, err := http.Post(server.URL, "", strings.NewReader("content")) //nolint:noctx // of a server of the test's
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		server.Close()
	}
}

// TestFilesReachTheKernel: what bounds a slow reader leaves a file a file.
func TestFilesReachTheKernel(t *testing.T) {
	t.Parallel()
	want := bytes.Repeat([]byte("0123456789abcdef"), 3*stride/16+5)
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, wrap := range map[string]func(*os.File) io.Reader{
		"whole": func(f *os.File) io.Reader { return f },
		"part":  func(f *os.File) io.Reader { return io.LimitReader(f, int64(len(want))) },
	} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		k := &kernel{ResponseWriter: httptest.NewRecorder()}
		n, err := bounds(0, 0).Downstream(k).ReadFrom(wrap(f))
		if err != nil || n != int64(len(want)) || !bytes.Equal(k.body.Bytes(), want) {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
		if k.byHand > 0 || k.parts < 4 {
			t.Errorf("%s: %d parts, %d of them copied by hand", name, k.parts, k.byHand)
		}
		f.Close()
	}
}

// TestSlowSenders: who stops sending, or sends a byte now and then for ever, is
// hung up on; who sends more or less than it says is refused.
func TestSlowSenders(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		idle, whole time.Duration
		header      string
		send        func(w io.Writer)
		code        nimbus.Code
	}{
		"stops":        {idle: 50 * time.Millisecond, header: "Content-Length: 10", send: say("hello"), code: nimbus.CodeCancelled},
		"drips":        {idle: time.Minute, whole: 100 * time.Millisecond, header: "Content-Length: 1000000", send: drip, code: nimbus.CodeCancelled},
		"hangs up":     {idle: time.Minute, header: "Content-Length: 10", send: nil, code: nimbus.CodeCancelled},
		"sends all":    {idle: time.Minute, header: "Content-Length: 10", send: say("0123456789")},
		"too little":   {idle: time.Minute, header: "Transfer-Encoding: chunked", send: say("5\r\nhello\r\n0\r\n\r\n"), code: nimbus.CodeInvalid},
		"too much":     {idle: time.Minute, header: "Transfer-Encoding: chunked", send: say("b\r\nhello world\r\n0\r\n\r\n"), code: nimbus.CodeInvalid},
		"just as much": {idle: time.Minute, header: "Transfer-Encoding: chunked", send: say("a\r\n0123456789\r\n0\r\n\r\n")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := bounds(c.idle, c.whole)
			result := make(chan error, 1)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				size := r.ContentLength
				if size < 0 { // what Content-Range would say
					size = 10
				}
				_, err := io.Copy(io.Discard, b.Upstream(w, r, size))
				result <- err
			}))
			defer server.Close()
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fmt.Fprintf(conn, "PUT / HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", c.header)
			if c.send == nil {
				conn.Close()
			} else {
				go c.send(conn)
			}
			if err := <-result; nimbus.ErrorCode(err) != c.code {
				t.Errorf("%v, want the code %q", err, c.code)
			}
		})
	}
}

func say(text string) func(io.Writer) { return func(w io.Writer) { io.WriteString(w, text) } }

// drip sends a byte again and again, until nobody takes it.
func drip(w io.Writer) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		if _, err := w.Write([]byte{'x'}); err != nil {
			return
		}
	}
}

// TestAnAnswerMayTakeLonger: the deadline of a body ends with the body.
func TestAnAnswerMayTakeLonger(t *testing.T) {
	t.Parallel()
	const idle = 50 * time.Millisecond
	b := bounds(idle, 0)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := b.Upstream(w, r, -1)
		for range 2 { // who reads on at the end has no new deadline
			if _, err := io.ReadAll(body); err != nil {
				t.Error(err)
			}
		}
		select {
		case <-r.Context().Done():
			t.Error("the request was ended while its answer was worked out")
		case <-time.After(4 * idle):
		}
	}))
	defer server.Close()
	answer, err := http.Post(server.URL, "text/plain", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
}

// TestSlowReaders: who takes nothing is hung up on.
func TestSlowReaders(t *testing.T) {
	t.Parallel()
	b := bounds(50*time.Millisecond, 0)
	result := make(chan error, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(b.Downstream(w), endless{})
		result <- err
	}))
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	// Not a line of it is read: the first bytes, too, may be later than the bound.
	if err := <-result; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the download ended with %v", err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// TestNoDeadlineIsAFault: behind what hides the connection an upload could last
// for ever; that is told at once and not found out one day.
func TestNoDeadlineIsAFault(t *testing.T) {
	t.Parallel()
	b := bounds(0, 0)
	r := httptest.NewRequest(http.MethodPut, "/", strings.NewReader("hello"))
	w := struct{ http.ResponseWriter }{httptest.NewRecorder()}
	if _, err := io.ReadAll(b.Upstream(w, r, 5)); nimbus.ErrorCode(err) != nimbus.CodeInternal {
		t.Errorf("a body without a deadline: %v", err)
	}
}
