package upstream

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"
)

// download is a blob that comes, and is given up when nothing does for long.
type download struct {
	body   io.ReadCloser
	cancel context.CancelFunc
	idle   *time.Timer
	late   atomic.Bool
}

func newDownload(body io.ReadCloser, cancel context.CancelFunc) *download {
	d := &download{body: body, cancel: cancel}
	d.idle = time.AfterFunc(idleTimeout, func() {
		d.late.Store(true)
		cancel()
	})
	return d
}

// Read implements io.Reader.
func (d *download) Read(p []byte) (int, error) {
	d.idle.Reset(idleTimeout)
	n, err := d.body.Read(p)
	switch {
	case err == nil || errors.Is(err, io.EOF):
		return n, err //nolint:wrapcheck // an io.Reader's end is its own
	case d.late.Load():
		return n, away("nothing came for %s", idleTimeout)
	}
	return n, away("the blob broke off: %s", cause(err))
}

// Close implements io.Closer.
func (d *download) Close() error {
	d.idle.Stop()
	d.cancel()
	return d.body.Close() //nolint:wrapcheck // the body's own
}
