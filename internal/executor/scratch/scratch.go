// Package scratch makes the empty disks that jobs write to.
package scratch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
)

// DefaultMiB is the size of a job's own disk where nothing else is said.
const DefaultMiB = 8 << 10

// mkfsTimeout bounds the making of an empty file system.
const mkfsTimeout = time.Minute

// Maker makes disks of one size. It is safe for concurrent use.
type Maker struct {
	Dir string // of the file that each new disk is a copy of
	MiB int

	mu sync.Mutex
}

// Check tells whether disks can be made here. Its error is a *nimbus.Error with
// a hint.
func Check() error {
	_, err := mke2fs()
	return err
}

// Make makes the disk of one job: an empty file system, which takes space only
// as it is written to.
func (m *Maker) Make(ctx context.Context, path string) error {
	template, err := m.Empty(ctx)
	if err != nil {
		return err
	}
	if err := Copy(path, template); err != nil {
		return fmt.Errorf("make disk: %w", err)
	}
	return nil
}

// Empty returns the file that each new disk is a copy of, and makes it where it
// is not there.
func (m *Maker) Empty(ctx context.Context) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	path := filepath.Join(m.Dir, fmt.Sprintf("empty-%dm.ext4", m.MiB))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	program, err := mke2fs()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, mkfsTimeout)
	defer cancel()
	return path, WriteShared(path, func(f *os.File) error {
		// No journal: the disk does not outlive its job.
		out, err := exec.CommandContext(ctx, program, "-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal",
			"-E", "nodiscard,lazy_itable_init=1,assume_storage_prezeroed=1", f.Name(), strconv.Itoa(m.MiB)+"M").CombinedOutput()
		if err != nil {
			return fmt.Errorf("mke2fs: %w: %s", err, bytes.TrimSpace(out))
		}
		return nil
	})
}

func mke2fs() (string, error) {
	for _, name := range []string{"mke2fs", "/usr/sbin/mke2fs", "/sbin/mke2fs"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", nimbus.Errorf(nimbus.CodeUnavailable, "mke2fs is not installed").WithHint("on Debian: apt-get install e2fsprogs")
}

// WriteShared makes a file that appears whole or not at all, and that every user
// of the machine may read.
func WriteShared(path string, fill func(*os.File) error) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make folder of shared files: %w", err)
	}
	f, err := os.CreateTemp(dir, ".new-")
	if err != nil {
		return fmt.Errorf("make %s: %w", filepath.Base(path), err)
	}
	defer os.Remove(f.Name())
	// Monitors that run as users of their own read it too.
	err = errors.Join(fill(f), f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("make %s: %w", filepath.Base(path), err)
	}
	return nil
}

// Copy copies a file and leaves its holes out.
func Copy(dst, src string) (err error) {
	in, err := os.Open(src)
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	out, err := os.OpenFile(dst, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if err := out.Truncate(info.Size()); err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	for at := int64(0); ; {
		start, err := in.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // holes alone from here on
		}
		if err != nil {
			return fmt.Errorf("copy: find data: %w", err)
		}
		end, err := in.Seek(start, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("copy: find hole: %w", err)
		}
		if _, err := io.Copy(io.NewOffsetWriter(out, start), io.NewSectionReader(in, start, end-start)); err != nil {
			return fmt.Errorf("copy: %w", err)
		}
		at = end
	}
}
