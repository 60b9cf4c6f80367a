package server

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
)

// Lock takes the data directory of an embedded server, so that none runs in it.
// The caller closes what it returns. Codes: conflict.
func Lock(dir string) (io.Closer, error) { return lock(dir) }

// lock takes the data directory for this process until the file is closed.
// The kernel gives it back when the process ends, however it ends.
func lock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		defer f.Close()
		holder, _ := io.ReadAll(io.LimitReader(f, 20)) // who it is helps, but decides nothing
		return nil, nimbus.Errorf(nimbus.CodeConflict, "another nimbus (pid %s) uses the data directory %s", strings.TrimSpace(string(holder)), dir).
			WithHint("stop it, or name another directory with --data")
	}
	if err == nil {
		err = errors.Join(f.Truncate(0), write(f, strconv.Itoa(os.Getpid())+"\n"))
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	return f, nil
}

func write(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text), 0)
	return err
}
