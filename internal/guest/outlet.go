package guest

import (
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// outlet is a pipe that the job writes to. It knows how much of that is in the events:
// what the job tells by OTLP is taken after what it wrote before, which may have named
// what is to be hidden.
type outlet struct {
	file *os.File

	mu     sync.Mutex
	read   int64 // bytes that are in the pipe no more
	passed int64 // of these, in the events
	closed bool
}

// Read implements io.Reader. A byte is in the pipe, or counted: never in between.
func (o *outlet) Read(buf []byte) (n int, err error) {
	raw, err := o.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	var failed error
	err = raw.Read(func(fd uintptr) (done bool) {
		o.mu.Lock()
		defer o.mu.Unlock()
		for {
			if n, failed = unix.Read(int(fd), buf); failed != unix.EINTR {
				break
			}
		}
		if failed == unix.EAGAIN {
			return false
		}
		o.read += int64(max(n, 0))
		return true
	})
	switch {
	case err != nil:
		return 0, err
	case failed != nil:
		return 0, failed
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// pass says that so much of what was read is in the events.
func (o *outlet) pass(n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.passed += int64(n)
}

// written is how much the job has written by now.
func (o *outlet) written() (n int64) {
	raw, err := o.file.SyscallConn()
	if err != nil {
		return 0
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	n = o.read
	_ = raw.Control(func(fd uintptr) { // of one that is closed nothing more is read
		if in, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ); err == nil {
			n += int64(in)
		}
	})
	return n
}

// has tells whether so much is in the events, or nothing more will be.
func (o *outlet) has(n int64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.closed || o.passed >= n
}

func (o *outlet) close() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.file.Close()
}
