package segment

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// file is what is used of an open file.
type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Sync() error
	Truncate(size int64) error
	Stat() (fs.FileInfo, error)
}

// disk is what is used of a file system: a test's disk loses its power.
type disk interface {
	// openFile opens a file, which is made where flag has os.O_CREATE.
	openFile(path string, flag int) (file, error)
	// remove removes a file; one that isn't there is fine.
	remove(path string) error
	// mkdir makes a folder, and what is above it.
	mkdir(path string) error
	// names lists a folder, in no order; none of one that isn't there.
	names(dir string) ([]string, error)
	// syncDir has the names in a folder survive a power cut.
	syncDir(dir string) error
	// replace makes path a file with this content, whole or not at all.
	replace(path string, content []byte) error
}

// osDisk is the machine's.
type osDisk struct{}

func (osDisk) openFile(path string, flag int) (file, error) { return os.OpenFile(path, flag, 0o600) }

func (osDisk) remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (osDisk) mkdir(path string) error { return os.MkdirAll(path, 0o700) }

func (osDisk) names(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

func (osDisk) syncDir(dir string) error {
	d, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (d osDisk) replace(path string, content []byte) error {
	part := path + ".part"
	f, err := os.OpenFile(part, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(part), err)
	}
	if err := os.Rename(part, path); err != nil {
		return err
	}
	return d.syncDir(filepath.Dir(path))
}
