// Package durable is what of a disk must survive a power cut, step by step; a
// test cuts it at each.
package durable

import (
	"os"

	"golang.org/x/sys/unix"
)

// Disk takes the steps.
type Disk interface {
	Write(path string, data []byte, mode os.FileMode) error
	Sync(path string) error // a file's content, or the names in a folder
	Rename(from, to string) error
	// Exchange gives each of two files or folders the other's name.
	Exchange(a, b string) error
}

// Real is the machine's.
type Real struct{}

// Write writes a file.
func (Real) Write(path string, data []byte, mode os.FileMode) error {
	return os.WriteFile(path, data, mode)
}

// Sync brings to the disk what was written.
func (Real) Sync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// Rename renames.
func (Real) Rename(from, to string) error { return os.Rename(from, to) }

// Exchange exchanges in one step.
func (Real) Exchange(a, b string) error {
	return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
}
