package runnerlog

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// watch tells that something changed below folders. Its channel holds one
// message: who hears it looks at everything.
type watch struct {
	fd      int // of inotify
	inotify *os.File
	changed chan struct{}
	done    chan struct{}
}

func newWatch() (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch folders: %w", err)
	}
	w := &watch{fd, os.NewFile(uintptr(fd), "inotify"), make(chan struct{}, 1), make(chan struct{})}
	go w.read()
	return w, nil
}

func (w *watch) add(dir string) error {
	_, err := unix.InotifyAddWatch(w.fd, dir, unix.IN_CREATE|unix.IN_MODIFY|unix.IN_MOVED_TO|unix.IN_ONLYDIR)
	if err != nil {
		return fmt.Errorf("watch %s: %w", dir, err)
	}
	return nil
}

// read ends with close.
func (w *watch) read() {
	defer close(w.done)
	buf := make([]byte, 16<<10)
	for {
		if _, err := w.inotify.Read(buf); err != nil {
			return
		}
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
}

func (w *watch) close() {
	w.inotify.Close()
	<-w.done
}
