package upstream

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"
)

// download is a blob that comes, and is given up when nothing or too little does for
// long: else an upstream could hold for hours what others wait for. It counts only
// while it is waited for, not while what came is stored.
type download struct {
	body   io.ReadCloser
	cancel context.CancelFunc
	idle   *time.Timer
	late   atomic.Bool

	waited time.Duration // since it was last looked how much came
	came   int64         // since then
}

func newDownload(body io.ReadCloser, cancel context.CancelFunc) *download {
	d := &download{body: body, cancel: cancel}
	d.idle = time.AfterFunc(idleTimeout, func() {
		d.late.Store(true)
		cancel()
	})
	d.idle.Stop() // nobody waits yet
	return d
}

// Read implements io.Reader.
func (d *download) Read(p []byte) (int, error) {
	d.idle.Reset(idleTimeout)
	began := time.Now()
	n, err := d.body.Read(p)
	d.idle.Stop()
	d.waited += time.Since(began)
	d.came += int64(n)
	if err == nil && d.waited >= leastEvery {
		if d.came < leastBytes {
			d.cancel()
			return n, broken("it is too slow: only %d bytes came in %s", d.came, d.waited.Round(time.Second))
		}
		d.waited, d.came = 0, 0
	}
	switch {
	case err == nil || errors.Is(err, io.EOF):
		return n, err //nolint:wrapcheck // an io.Reader's end is its own
	case d.late.Load():
		return n, broken("nothing came for %s", idleTimeout)
	}
	return n, broken("the blob broke off: %s", cause(err))
}

// Close implements io.Closer.
func (d *download) Close() error {
	d.idle.Stop()
	d.cancel()
	return d.body.Close() //nolint:wrapcheck // the body's own
}
