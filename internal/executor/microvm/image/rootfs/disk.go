package rootfs

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/filename"
)

// put writes a file that appears whole or not at all.
func (s *Store) put(path string, v any) error {
	raw, err := json.MarshalIndent(v, "", "\t")
	if err != nil {
		return fmt.Errorf("encode %s: %w", filepath.Base(path), err)
	}
	return s.putBytes(path, append(raw, '\n'), 0o644)
}

func (s *Store) putBytes(path string, raw []byte, mode os.FileMode) error {
	draft := filepath.Join(filepath.Dir(path), ".new-"+filepath.Base(path))
	for _, step := range []func() error{
		func() error { return s.disk.Write(draft, raw, mode) },
		func() error { return s.disk.Sync(draft) },
		func() error { return s.disk.Rename(draft, path) },
		func() error { return s.disk.Sync(filepath.Dir(path)) },
	} {
		if err := step(); err != nil {
			return fmt.Errorf("write %s: %w", filepath.Base(path), err)
		}
	}
	return nil
}

// hold takes a folder's lock for as long as this process lives, so that a sweep
// can tell a draft that is being made from one that was left.
func hold(dir string) (*os.File, bool) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, false
	}
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		f.Close()
		return nil, false
	}
	return f, true
}

// fileName makes a file's name of any name.
func fileName(name string) string {
	const plain = "abcdefghijklmnopqrstuvwxyz0123456789-_"
	var b strings.Builder
	for _, c := range []byte(name) {
		if strings.IndexByte(plain, c) >= 0 || c == '.' && b.Len() > 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02x", c)
		}
	}
	return filename.Shorten(b.String())
}
