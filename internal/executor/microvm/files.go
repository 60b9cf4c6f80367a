package microvm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
)

// diskFile is a job's own disk, in its sandbox's folder.
const diskFile = "disk.ext4"

// mkfsTimeout bounds the making of an empty file system.
const mkfsTimeout = time.Minute

// initrdAge is how long an initrd is kept that no machine was booted from.
const initrdAge = 7 * 24 * time.Hour

// initrdTouch is after how long one that is used is marked as such. A file that
// is touched is read anew by who remembers its digest.
const initrdTouch = 24 * time.Hour

// initrd returns what a machine boots into: the guest and the image's modules.
// It is made once for each pair, and kept.
func (e *Executor) initrd(img image.Image) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	h := sha256.New()
	for _, part := range []string{e.cfg.Guest, img.Modules()} {
		digest, err := e.digests.of(part)
		if err != nil {
			return "", err
		}
		h.Write([]byte(digest))
	}
	path := filepath.Join(e.cfg.Dir, fmt.Sprintf("initrd-%x.cpio", h.Sum(nil)[:12]))
	now := time.Now()
	if info, err := os.Stat(path); err == nil {
		if now.Sub(info.ModTime()) < initrdTouch {
			return path, nil
		}
		if os.Chtimes(path, now, now) == nil {
			return path, nil
		}
	}
	e.removeOldInitrds(now)
	guest, err := os.ReadFile(e.cfg.Guest)
	if err != nil {
		return "", fmt.Errorf("read guest: %w", err)
	}
	modules, err := os.ReadFile(img.Modules())
	if err != nil {
		return "", fmt.Errorf("read modules: %w", err)
	}
	return path, e.writeShared(path, func(f *os.File) error {
		archive := image.NewCpio(f)
		archive.Program("init", guest)
		if err := archive.Close(); err != nil {
			return err
		}
		_, err := f.Write(modules)
		return err
	})
}

func (e *Executor) removeOldInitrds(now time.Time) {
	old, err := filepath.Glob(filepath.Join(e.cfg.Dir, "initrd-*.cpio"))
	if err != nil {
		return
	}
	for _, path := range old {
		if info, err := os.Stat(path); err == nil && now.Sub(info.ModTime()) > initrdAge {
			os.Remove(path)
		}
	}
}

// writeShared makes a file that appears whole or not at all.
func (e *Executor) writeShared(path string, fill func(*os.File) error) error {
	if err := os.MkdirAll(e.cfg.Dir, 0o755); err != nil {
		return fmt.Errorf("make folder of shared files: %w", err)
	}
	f, err := os.CreateTemp(e.cfg.Dir, ".new-")
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

// newDisk makes the disk of one job: an empty file system, which takes space
// only as it is written to.
func (e *Executor) newDisk(ctx context.Context, path string) error {
	template, err := e.emptyDisk(ctx)
	if err != nil {
		return err
	}
	if err := copySparse(path, template); err != nil {
		return fmt.Errorf("make disk: %w", err)
	}
	return nil
}

// emptyDisk returns the file that each new disk is a copy of.
func (e *Executor) emptyDisk(ctx context.Context) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	path := filepath.Join(e.cfg.Dir, fmt.Sprintf("empty-%dm.ext4", e.cfg.DiskMiB))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	program, err := mke2fs()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, mkfsTimeout)
	defer cancel()
	return path, e.writeShared(path, func(f *os.File) error {
		// No journal: the disk does not outlive the machine.
		out, err := exec.CommandContext(ctx, program, "-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal",
			"-E", "nodiscard,lazy_itable_init=1,assume_storage_prezeroed=1", f.Name(), strconv.Itoa(e.cfg.DiskMiB)+"M").CombinedOutput()
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

// copySparse copies a file and leaves its holes out.
func copySparse(dst, src string) (err error) {
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
