package guest

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Bounds of a workspace. More is an error that says so.
const (
	maxEntries        = 1_000_000
	maxWorkspaceBytes = 8 << 30
	maxZstdMemory     = 64 << 20
)

// unpack writes a tar.zst into dir. The archive is somebody's: nothing of it
// may land outside, by name or by link, which os.Root sees to. again takes the
// place of what came of it before.
func unpack(r io.Reader, dir string, again bool) (files, bytes int64, err error) {
	z, err := zstd.NewReader(r, zstd.WithDecoderMaxMemory(maxZstdMemory), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return 0, 0, fmt.Errorf("open workspace archive: %w", err)
	}
	defer z.Close()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, 0, fmt.Errorf("open workspace: %w", err)
	}
	defer root.Close()
	for entries := tar.NewReader(z); ; {
		h, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return files, bytes, nil
		}
		if err != nil {
			return files, bytes, fmt.Errorf("read workspace archive: %w", err)
		}
		files++
		bytes += h.Size
		if files > maxEntries || bytes > maxWorkspaceBytes {
			return files, bytes, fmt.Errorf("the workspace has more than %d entries or %d bytes", int64(maxEntries), int64(maxWorkspaceBytes))
		}
		if err := put(root, h, entries, again); err != nil {
			return files, bytes, fmt.Errorf("unpack %q: %w", h.Name, err)
		}
	}
}

// put makes one entry. Kinds that no working tree has are refused.
func put(root *os.Root, h *tar.Header, content io.Reader, again bool) error {
	name := path.Clean(h.Name)
	if name == "." {
		return nil
	}
	if !fs.ValidPath(name) {
		return errors.New("the name leads outside")
	}
	mode := fs.FileMode(h.Mode) & fs.ModePerm
	if parent := path.Dir(name); parent != "." {
		if err := root.MkdirAll(parent, 0o755); err != nil {
			return err
		}
	}
	if again && h.Typeflag != tar.TypeDir {
		if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if err := root.MkdirAll(name, mode|0o700); err != nil {
			return err
		}
		return root.Chmod(name, mode|0o700)
	case tar.TypeReg:
		f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, content)
		return errors.Join(err, f.Chmod(mode), f.Close())
	case tar.TypeSymlink:
		// It may point anywhere: it is the job that will follow it, not us.
		if strings.ContainsRune(h.Linkname, 0) {
			return errors.New("the link's target is no path")
		}
		return root.Symlink(h.Linkname, name)
	}
	return fmt.Errorf("kind %q has no place in a workspace", h.Typeflag)
}

// chownTree gives the workspace to the job's user.
func chownTree(dir string, uid, gid int) error {
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, uid, gid)
	})
	if err != nil {
		return fmt.Errorf("give the workspace to the job's user: %w", err)
	}
	return nil
}
