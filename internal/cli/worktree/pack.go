package worktree

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"

	"github.com/nimbus-ci/nimbus"
)

// MaxPackedBytes is the most that a server takes, compressed.
const MaxPackedBytes = 256 << 20

// Packer writes files as tar.zst.
type Packer struct {
	Dir   string
	Names []string // as List returns them

	done    atomic.Int64
	written atomic.Int64
	skipped []string
}

// Progress is how many names are done and how many bytes were written. It may
// be called while Pack runs.
func (p *Packer) Progress() (names int, bytes int64) {
	return int(p.done.Load()), p.written.Load()
}

// Skipped are the names of what has no place in an archive: sockets, devices,
// pipes. It is for after Pack.
func (p *Packer) Skipped() []string { return p.skipped }

// Pack writes the archive to w. Codes: too_large, conflict for a file that
// changed while it was read.
func (p *Packer) Pack(ctx context.Context, w io.Writer) error {
	z, err := zstd.NewWriter(&limitedWriter{w: w, written: &p.written}, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2))
	if err != nil {
		return fmt.Errorf("pack files: %w", err)
	}
	t := tar.NewWriter(z)
	for _, name := range p.Names {
		if err := ctx.Err(); err != nil {
			return errors.Join(err, z.Close())
		}
		if err := p.add(t, name); err != nil {
			_ = z.Close() // its goroutines end; the error before it is the one
			return fmt.Errorf("pack %s: %w", name, err)
		}
		p.done.Add(1)
	}
	if err := errors.Join(t.Close(), z.Close()); err != nil {
		return fmt.Errorf("pack files: %w", err)
	}
	return nil
}

func (p *Packer) add(t *tar.Writer, name string) error {
	path := filepath.Join(p.Dir, filepath.FromSlash(name))
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // gone since it was listed
	}
	if err != nil {
		return err
	}
	// Owner and times are this machine's: the sandbox has its own.
	h := &tar.Header{Name: name, Mode: int64(info.Mode().Perm()), Format: tar.FormatPAX}
	switch {
	case info.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
		return t.WriteHeader(h)
	case info.Mode()&fs.ModeSymlink != 0:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = os.Readlink(path); err != nil {
			return err
		}
		return t.WriteHeader(h)
	case info.Mode().IsRegular():
		return addFile(t, h, path)
	}
	p.skipped = append(p.skipped, name)
	return nil
}

func addFile(t *tar.Writer, h *tar.Header, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat() // of what was opened, whatever the name means by now
	if err != nil {
		return err
	}
	h.Typeflag, h.Size = tar.TypeReg, info.Size()
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.Copy(t, io.LimitReader(f, h.Size))
	if err == nil && n < h.Size {
		return nimbus.Errorf(nimbus.CodeConflict, "the file became shorter while it was read").WithHint("try again")
	}
	return err
}

// limitedWriter counts, and refuses what is beyond MaxPackedBytes.
type limitedWriter struct {
	w       io.Writer
	written *atomic.Int64
}

func (l *limitedWriter) Write(b []byte) (int, error) {
	if l.written.Load()+int64(len(b)) > MaxPackedBytes {
		return 0, nimbus.Errorf(nimbus.CodeTooLarge, "the files take more than %d MiB, compressed", MaxPackedBytes>>20).
			WithHint("keep what is large out by .gitignore, run in a smaller directory, or without files: --no-files")
	}
	n, err := l.w.Write(b)
	l.written.Add(int64(n))
	return n, err
}
