// Package datadir has one process at a time use a directory: a server its data, an
// agent its own.
package datadir

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
)

// Locked is a data directory that is taken.
type Locked struct {
	file           *os.File
	dir            string
	madeDir, fresh bool // the directory, and the file in it, are there since we took it
}

// Lock takes a directory for this process until what it returns is closed, and
// makes it where it isn't there. The kernel gives it back when the process ends,
// however it ends. Codes: conflict.
func Lock(dir string) (*Locked, error) {
	l := &Locked{dir: dir, madeDir: missing(dir), fresh: missing(filepath.Join(dir, lockFile))}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "the data directory can't be made: %w", err)
	}
	var err error
	if l.file, err = lock(dir); err != nil {
		return nil, err
	}
	return l, nil
}

func missing(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// Close gives the directory back.
func (l *Locked) Close() error { return l.file.Close() }

// Undo gives the directory back, and leaves nothing of having taken it: an
// operator who finds a directory with a lock in it, and nothing else, takes it
// for a server that lost its data. What others have put there stays.
func (l *Locked) Undo() error {
	if l.fresh {
		if err := os.Remove(l.file.Name()); err != nil {
			return errors.Join(fmt.Errorf("give the data directory back: %w", err), l.file.Close())
		}
	}
	if l.madeDir {
		_ = os.Remove(l.dir) // refused where there is something in it
	}
	return l.file.Close()
}

const lockFile = "lock"

// lock holds the directory until the file is closed.
func lock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		defer f.Close()
		holder, _ := io.ReadAll(io.LimitReader(f, 20)) // who it is helps, but decides nothing
		return nil, nimbus.Errorf(nimbus.CodeConflict, "another nimbus (pid %s) uses the directory %s", strings.TrimSpace(string(holder)), dir).
			WithHint("stop it, or name another directory with --data")
	}
	if err == nil {
		err = stillThere(f)
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

// stillThere tells that a file is the one that its name stands for: whoever had
// it before may have removed it, see Undo.
func stillThere(f *os.File) error {
	held, err := f.Stat()
	if err != nil {
		return err
	}
	if named, err := os.Lstat(f.Name()); err != nil || !os.SameFile(held, named) {
		return nimbus.Errorf(nimbus.CodeConflict, "another nimbus has just given the data directory back").WithHint("try again")
	}
	return nil
}

func write(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text), 0)
	return err
}
