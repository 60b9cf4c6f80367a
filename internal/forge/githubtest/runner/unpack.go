package runner

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
)

// Bounds of a repository's archive.
const (
	maxFiles        = 100_000
	maxUnpackedByte = 2 << 30
)

// unpack writes a tar.gz below dir and returns the number of files. Nothing is
// written outside of dir, whatever the archive says: os.Root sees to it.
func unpack(archive io.Reader, dir string) (files int, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	zipped, err := gzip.NewReader(archive)
	if err != nil {
		return 0, err
	}
	in := tar.NewReader(io.LimitReader(zipped, maxUnpackedByte))
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return files, err
		}
		if files++; files > maxFiles {
			return files, fmt.Errorf("more than %d files", maxFiles)
		}
		if err := unpackOne(root, h, in); err != nil {
			return files, fmt.Errorf("%s: %w", h.Name, err)
		}
	}
}

func unpackOne(root *os.Root, h *tar.Header, content io.Reader) error {
	name := path.Clean(h.Name)
	if h.Typeflag == tar.TypeDir {
		return root.MkdirAll(name, 0o755)
	}
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeSymlink {
		return root.Symlink(h.Linkname, name)
	}
	if h.Typeflag != tar.TypeReg {
		return fmt.Errorf("files of type %q are not supported", h.Typeflag)
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644|os.FileMode(h.Mode)&0o111)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, content); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
