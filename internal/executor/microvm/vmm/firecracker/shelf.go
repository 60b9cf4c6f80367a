package firecracker

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/firecracker/jailer"
)

// shelfAge is how long a copy is kept that no machine was made with.
const shelfAge = 7 * 24 * time.Hour

// shelf has a copy of each file that jails share. Each jail has a link of its
// own, and a new link shows in the file's times like a write does: those who
// watch over kernels and images would read them anew for each machine.
type shelf struct {
	dir string

	mu sync.Mutex
}

// get returns the copy of a file, made when it is first asked for.
func (s *shelf) get(path string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", fmt.Errorf("lay out %s: %w", filepath.Base(path), err)
	}
	sum := sha256.Sum256(fmt.Append(nil, st.Dev, st.Ino, st.Size, st.Mode, st.Mtim, st.Ctim))
	place := filepath.Join(s.dir, hex.EncodeToString(sum[:16]))
	now := time.Now()
	if os.Chtimes(place, now, now) == nil {
		return place, nil
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return "", fmt.Errorf("lay out %s: %w", filepath.Base(path), err)
	}
	s.clear(now)
	if err := jailer.Copy(place, path, os.FileMode(st.Mode&0o777)); err != nil {
		return "", fmt.Errorf("lay out %s: %w", filepath.Base(path), err)
	}
	return place, nil
}

// clear removes what no machine has, and none had for long.
func (s *shelf) clear(now time.Time) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return // there is nothing yet
	}
	for _, e := range entries {
		path := filepath.Join(s.dir, e.Name())
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err == nil && st.Nlink == 1 && now.Sub(time.Unix(st.Mtim.Unix())) > shelfAge {
			err = os.Remove(path)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return // the next time
			}
		}
	}
}
