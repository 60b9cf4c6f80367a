package microvm

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
	"github.com/nimbus-ci/nimbus/internal/executor/scratch"
)

// diskFile is a job's own disk, in its sandbox's folder.
const diskFile = "disk.ext4"

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
	return path, scratch.WriteShared(path, func(f *os.File) error {
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
