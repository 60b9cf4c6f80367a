// Package filesum tells whether files are still those that were read: a file of
// an image is read as a whole once, and again when it is not the same any more.
package filesum

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/plainfile"
)

// Sum is what a file has.
type Sum struct {
	SHA256 string // in hex
	Bytes  int64
}

// identity tells whether a file is still the one that was read: the kernel
// changes the last of these times with every write, and lets nobody set it.
type identity struct {
	device, inode     uint64
	bytes             int64
	modified, changed unix.Timespec
}

// maxKnown bounds what is remembered; a host has few images.
const maxKnown = 1024

// Book remembers sums for as long as the files are the same. Its zero value is
// ready, and it is safe for concurrent use.
type Book struct {
	reading sync.Mutex // held while a file is read

	mu    sync.Mutex
	known map[identity]Sum
}

// Of is a file's sum. Who asks while it is read waits for that.
func (b *Book) Of(path string) (Sum, error) {
	var s unix.Stat_t
	if err := unix.Lstat(path, &s); err != nil {
		return Sum{}, &os.PathError{Op: "look at", Path: path, Err: err}
	}
	if sum, ok := b.find(s); ok {
		return sum, nil
	}
	b.reading.Lock()
	defer b.reading.Unlock()
	if sum, ok := b.find(s); ok { // somebody else has just read it
		return sum, nil
	}
	return b.read(path)
}

func (b *Book) find(s unix.Stat_t) (Sum, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	sum, ok := b.known[identityOf(s)]
	return sum, ok
}

// Read reads a file whatever is known of it.
func (b *Book) Read(path string) (Sum, error) {
	b.reading.Lock()
	defer b.reading.Unlock()
	return b.read(path)
}

func (b *Book) read(path string) (Sum, error) {
	f, _, err := plainfile.Open(path)
	if err != nil {
		return Sum{}, err
	}
	defer f.Close()
	var s unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &s); err != nil {
		return Sum{}, &os.PathError{Op: "look at", Path: path, Err: err}
	}
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return Sum{}, fmt.Errorf("read %s: %w", path, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.known == nil || len(b.known) >= maxKnown {
		b.known = map[identity]Sum{}
	}
	sum := Sum{SHA256: hex.EncodeToString(h.Sum(nil)), Bytes: n}
	b.known[identityOf(s)] = sum // one that is written to meanwhile is another
	return sum, nil
}

func identityOf(s unix.Stat_t) identity {
	return identity{s.Dev, s.Ino, s.Size, s.Mtim, s.Ctim}
}
