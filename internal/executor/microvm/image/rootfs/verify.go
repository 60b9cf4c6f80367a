package rootfs

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"syscall"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// stamp tells whether a file is still the one that was read: the kernel changes
// the last of these times with every write, and lets nobody set it.
type stamp struct {
	device, inode uint64
	size          int64
	modified      time.Time
	changed       syscall.Timespec
}

func stampOf(path string) (stamp, error) {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}, fmt.Errorf("look at image: %w", err)
	}
	sys, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return stamp{}, fmt.Errorf("look at image: no inode of %s", path)
	}
	return stamp{sys.Dev, sys.Ino, info.Size(), info.ModTime(), sys.Ctim}, nil
}

// Check tells whether a root is what was signed. The whole file is read the
// first time that this process asks, and when the file is not the same any more.
// Codes: internal, with what to do.
func (s *Store) Check(r Root) error {
	if err := s.checkSigned(r); err != nil {
		return err
	}
	now, err := stampOf(r.Path())
	if err != nil {
		return err
	}
	s.mu.Lock()
	before, known := s.checked[r.Digest]
	s.mu.Unlock()
	if known && before == now {
		return nil
	}
	return s.Verify(r)
}

// Verify reads all of a root, whatever is known of it.
func (s *Store) Verify(r Root) error {
	if err := s.checkSigned(r); err != nil {
		return err
	}
	before, err := stampOf(r.Path())
	if err != nil {
		return err
	}
	digest, size, err := measure(r.Path())
	if err != nil {
		return err
	}
	if digest != r.Digest || size != r.Size {
		s.mu.Lock()
		delete(s.checked, r.Digest)
		s.mu.Unlock()
		return changed(r, "the file is %s and has %d bytes", digest, size)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checked[r.Digest] = before // one that is written to meanwhile differs from it
	return nil
}

// checkSigned compares the manifest with what was signed.
func (s *Store) checkSigned(r Root) error {
	var e envelope
	if err := readJSON(filepath.Join(r.dir, attestationFile), &e); err != nil {
		return changed(r, "its attestation can't be read: %v", err)
	}
	keys, err := s.trusted()
	if err != nil {
		return err
	}
	m, err := attested(e, keys)
	if err != nil {
		return changed(r, "%v", err)
	}
	if !m.ConvertedAt.Equal(r.ConvertedAt) {
		return changed(r, "its manifest differs from its attestation")
	}
	m.ConvertedAt = r.ConvertedAt
	if !reflect.DeepEqual(m, r.Manifest) {
		return changed(r, "its manifest differs from its attestation")
	}
	return nil
}

func changed(r Root, format string, args ...any) error {
	return nimbus.Errorf(nimbus.CodeInternal, "the image in %s is not what was converted: "+format, append([]any{r.dir}, args...)...).
		WithHint("nimbus images gc --broken removes it; the next job that wants it has it converted again")
}
