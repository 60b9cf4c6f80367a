package jailer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/nimbus-ci/nimbus"
)

// statT is what os.FileInfo.Sys returns on Linux.
type statT = *syscall.Stat_t

// Users hands each jail a user id that no other jail has. An id is taken while
// the folder exists that it was taken for: nothing has to give it back, and an
// agent that starts anew finds the ids of the one before.
type Users struct {
	// Dir keeps a file for each id that is taken.
	Dir string
	// First is the first id, Count how many there are.
	First, Count int

	mu sync.Mutex
}

// Take returns an id for the jail in folder; the same one when it is asked
// again.
func (u *Users) Take(folder string) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := os.MkdirAll(u.Dir, 0o700); err != nil {
		return 0, fmt.Errorf("take user id: %w", err)
	}
	free := 0
	for id := u.First; id < u.First+u.Count; id++ {
		owner, err := os.ReadFile(u.file(id))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return 0, fmt.Errorf("take user id: %w", err)
		case slices.Contains(folders(owner), folder):
			return id, nil
		case slices.ContainsFunc(folders(owner), exists):
			continue
		}
		if free == 0 {
			free = id
		}
	}
	if free == 0 {
		return 0, nimbus.Errorf(nimbus.CodeUnavailable, "all %d user ids for microVMs are taken", u.Count).
			WithHint("remove folders of sandboxes that are gone, or give more ids")
	}
	return free, u.write(free, folder)
}

// Move keeps the id of the jail in folder from taken when that becomes to. It is
// called before: wherever that is cut off, the id has an owner.
func (u *Users) Move(from, to string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	for id := u.First; id < u.First+u.Count; id++ {
		owner, err := os.ReadFile(u.file(id))
		if err == nil && slices.Contains(folders(owner), from) {
			return u.write(id, from, to)
		}
	}
	return nil // there is no such jail
}

func (u *Users) file(id int) string { return filepath.Join(u.Dir, strconv.Itoa(id)) }

// folders are those for which an id is taken.
func folders(owner []byte) []string {
	return strings.Split(strings.TrimSuffix(string(owner), "\n"), "\n")
}

// write is whole or nothing: half a folder's name would free the id.
func (u *Users) write(id int, of ...string) error {
	temporary := u.file(id) + ".new"
	f, err := os.OpenFile(temporary, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("take user id: %w", err)
	}
	_, err = f.WriteString(strings.Join(of, "\n") + "\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("take user id: %w", err)
	}
	if err := os.Rename(temporary, u.file(id)); err != nil {
		return fmt.Errorf("take user id: %w", err)
	}
	return nil
}

func exists(folder string) bool {
	_, err := os.Lstat(folder)
	return !errors.Is(err, fs.ErrNotExist)
}
