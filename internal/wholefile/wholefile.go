// Package wholefile writes files that are there whole, with what they should
// hold, or as they were before: who reads one never sees a part of it, also when
// the writer is killed in between. What is in use under a name, like a program
// that runs, stays what it is.
package wholefile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Write replaces or makes a file. After a power cut it may be empty.
func Write(path string, content []byte, mode fs.FileMode) error {
	return write(path, bytes.NewReader(content), mode, func(*os.File) error { return nil })
}

// WriteDurable is Write of what a power cut must not take: once it has returned,
// the content is on the disk.
func WriteDurable(path string, content []byte, mode fs.FileMode) error {
	return Copy(path, bytes.NewReader(content), mode)
}

// Copy is WriteDurable of all that from has.
func Copy(path string, from io.Reader, mode fs.FileMode) error {
	return write(path, from, mode, (*os.File).Sync)
}

func write(path string, from io.Reader, mode fs.FileMode, sync func(*os.File) error) (err error) {
	draft, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return fmt.Errorf("make a draft: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(draft.Name()))
		}
	}()
	_, err = io.Copy(draft, from)
	if err := errors.Join(err, draft.Chmod(mode), sync(draft), draft.Close()); err != nil {
		return fmt.Errorf("write a draft: %w", err)
	}
	if err := os.Rename(draft.Name(), path); err != nil {
		return fmt.Errorf("put it in its place: %w", err)
	}
	return nil
}
