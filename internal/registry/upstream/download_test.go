package upstream

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// drip gives so many bytes each time, after a pause, until its context ends.
type drip struct {
	ctx   context.Context //nolint:containedctx // an io.Reader gets none
	bytes int
	pause time.Duration
	left  int
}

func (d *drip) Read(p []byte) (int, error) {
	select {
	case <-d.ctx.Done():
		return 0, d.ctx.Err()
	case <-time.After(d.pause):
	}
	n := min(d.bytes, len(p), d.left)
	if d.left -= n; n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (*drip) Close() error { return nil }

// TestDownloadsHaveALeastRate: who sends a byte now and then is given up after a
// minute; who is slower than usual is not, nor one whose bytes are stored slowly.
func TestDownloadsHaveALeastRate(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		bytes        int
		pause, store time.Duration
		most         time.Duration // 0: it comes whole
	}{
		"a byte each 20 seconds": {1, 20 * time.Second, 0, 61 * time.Second},
		"15 KiB a second":        {15 << 10, time.Second, 0, 61 * time.Second},
		"17 KiB a second":        {17 << 10, time.Second, 0, 0},
		"stored slowly":          {17 << 10, time.Second, idleTimeout + time.Minute, 0},
		"nothing":                {1, time.Hour, 0, 46 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				d := newDownload(&drip{ctx, c.bytes, c.pause, 4 << 20}, cancel)
				defer d.Close()
				began, got := time.Now(), 0
				var err error
				for buf := make([]byte, 1<<20); err == nil; {
					var n int
					n, err = d.Read(buf)
					got += n
					time.Sleep(c.store)
				}
				whole := errors.Is(err, io.EOF) && got == 4<<20
				if took := time.Since(began); whole != (c.most == 0) || c.most > 0 && (took > c.most || KindOf(err) != Broken) {
					t.Errorf("%d bytes came in %s, and then %v", got, took, err)
				}
			})
		})
	}
}
