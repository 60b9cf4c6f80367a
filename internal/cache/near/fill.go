package near

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

const (
	// pieceBytes is how large the files are into which a content is fetched: as
	// much as is read through at once where its bytes have to be proved.
	pieceBytes = 64 << 20
	fillBuffer = 256 << 10
	// maxFills is how many contents are fetched at once.
	maxFills = 32
)

// fill fetches a content, once for all who wait for it. Each of them reads from
// the disk, at a speed of its own, so that a slow one holds up nobody; it ends
// when nobody is left.
type fill struct {
	name

	size  int64
	shelf *shelf
	stop  context.CancelFunc
	ended chan struct{} // closed when nothing of it runs any more

	mu      sync.Mutex
	files   []string // of its pieces, the last of which may be being written
	got     int64
	err     error
	done    *held         // once it is on the shelf
	more    chan struct{} // closed when any of the above has changed
	readers int
}

func newFill(s *shelf, n name, size int64, stop context.CancelFunc) *fill {
	return &fill{name: n, size: size, shelf: s, stop: stop, ended: make(chan struct{}), more: make(chan struct{})}
}

// has tells whether a byte is there already.
func (f *fill) has(at int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err == nil && at < f.got
}

// enter counts a reader; false when it is too late: all have left before everything had
// come, or it is on the shelf.
func (f *fill) enter() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil || f.readers < 0 && (f.got < f.size || f.done != nil) {
		return false
	}
	f.readers = max(f.readers, 0) + 1
	return true
}

// leave implements source.
func (f *fill) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.readers--; f.readers > 0 {
		return
	}
	f.readers = -1 // nobody comes any more, unless all has come
	f.stop()
	if f.done != nil {
		f.shelf.giveBack(f.done)
	}
}

// change changes what readers see, and lets them know.
func (f *fill) change(to func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	to()
	close(f.more)
	f.more = make(chan struct{})
}

// open implements source.
func (f *fill) open(ctx context.Context, at int64) (*os.File, int64, error) {
	for {
		file, n, more, err := f.look(ctx, at)
		if file != nil || err != nil {
			return file, n, err
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil, 0, fmt.Errorf("wait for a content: %w", context.Cause(ctx))
		}
	}
}

// look is open, but does not wait.
func (f *fill) look(ctx context.Context, at int64) (file *os.File, n int64, more <-chan struct{}, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.done != nil:
		file, n, err = whole{f.shelf, f.done}.open(ctx, at)
		return file, n, nil, err
	case f.err != nil:
		return nil, 0, nil, f.err
	case at >= f.got:
		return nil, 0, f.more, nil
	}
	i, skip := at/pieceBytes, at%pieceBytes
	// By its name, which it has as long as this is locked: the offset of a file that
	// is open is one for all who have it.
	if file, err = os.Open(f.files[i]); err != nil {
		return nil, 0, nil, fmt.Errorf("open a piece: %w", err)
	}
	if _, err := file.Seek(skip, io.SeekStart); err != nil {
		return nil, 0, nil, errors.Join(fmt.Errorf("find a byte: %w", err), file.Close())
	}
	return file, min(f.got-at, pieceBytes-skip), nil, nil
}

// run takes a content in, puts it on the shelf, and tells all readers how it
// ended. The bytes are counted before: reserved.
func (f *fill) run(body io.Reader, reserved int64) {
	defer close(f.ended)
	defer f.stop()
	pieces, err := f.takeIn(body)
	if err == nil {
		err = f.publish(pieces, reserved)
	} else {
		f.shelf.free(reserved)
	}
	if err != nil {
		f.change(func() { f.err = err })
		for _, p := range pieces {
			f.shelf.throw(p)
		}
	}
}

// takeIn writes the pieces of a content.
func (f *fill) takeIn(body io.Reader) (pieces []piece, err error) {
	buffer := make([]byte, fillBuffer)
	for f.left() > 0 {
		p := f.shelf.newReservedPart()
		f.change(func() { f.files = append(f.files, p.path) })
		for p.size < pieceBytes && f.left() > 0 {
			n, err := body.Read(buffer[:min(fillBuffer, pieceBytes-p.size, f.left())])
			if err := p.write(buffer[:n]); err != nil {
				p.discard()
				return pieces, err
			}
			f.change(func() { f.got += int64(n) })
			if err != nil && f.left() > 0 {
				p.discard()
				return pieces, fmt.Errorf("fetch a content: %w", err)
			}
		}
		made, err := p.end()
		if err != nil {
			return pieces, err
		}
		pieces = append(pieces, made)
	}
	return pieces, nil
}

// left is how many bytes are still to come; only run changes it.
func (f *fill) left() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.size - f.got
}

// publish puts the pieces on the shelf. Readers find them there, or where they
// were, at each moment.
func (f *fill) publish(pieces []piece, reserved int64) (err error) {
	f.change(func() {
		if err = f.shelf.put(f.name, pieces, reserved); err != nil {
			return
		}
		h, ok := f.shelf.take(f.name, f.size)
		if !ok {
			err = errNoRoom
			return
		}
		if f.done = h; f.readers < 0 { // the last one has left
			f.shelf.giveBack(h)
		}
	})
	return err
}

// fillCost is what a content of a size takes while it is fetched.
func fillCost(size int64) int64 { return blocks(size) + blockBytes }

// watch has reads fail that bring nothing for a time: the origin hangs.
type watch struct {
	r     io.Reader
	idle  time.Duration
	timer *time.Timer
}

func newWatch(r io.Reader, idle time.Duration, stop func()) *watch {
	return &watch{r, idle, time.AfterFunc(idle, stop)}
}

// Read implements io.Reader.
func (w *watch) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	w.timer.Reset(w.idle)
	if err != nil {
		w.timer.Stop()
	}
	return n, err //nolint:wrapcheck // an io.Reader's error is its own
}
