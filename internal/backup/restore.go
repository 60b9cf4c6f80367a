package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/store"
)

// A restore puts everything beside what is there, checks it, and then writes a
// note: from then on it is done, whatever happens. Finish does what the note
// says, now or when the server next starts.
const (
	staging = ".restore"
	note    = "restore.json"
)

// restoring is the note.
type restoring struct {
	Aside string `json:"aside"` // folder for what was there
}

// Restore says what to bring back.
type Restore struct {
	Data  string // the data directory, locked by the caller
	File  string
	Force bool // put aside what is there
	Now   time.Time
	// Opens tells, before anything is replaced, whether the master key at hand
	// opens what is sealed in the database db. key is the master key file that
	// the backup brings, "" where it has none. Nil for not asking.
	Opens func(ctx context.Context, db, key string) error

	step func(name string) // a test ends the process here
}

// Restored is what came of it.
type Restored struct {
	Schema int64
	Aside  string // folder with what was there before; "" when nothing was
	Keys   bool   // whether the data directory has a master key now
}

// Run brings a backup back: all of it, or nothing when it fails. Codes: conflict
// for a data directory that is in use, invalid for a file that is no whole
// backup, unsupported for one of a newer Nimbus; or those of Opens.
func (r Restore) Run(ctx context.Context) (out Restored, err error) {
	if r.step == nil {
		r.step = func(string) {}
	}
	if err := Finish(r.Data); err != nil {
		return out, err
	}
	occupied, err := exists(filepath.Join(r.Data, database))
	if err != nil {
		return out, err
	}
	if occupied && !r.Force {
		return out, nimbus.Errorf(nimbus.CodeConflict, "%s has a database in it", r.Data).
			WithHint("--force puts it aside, into a folder beside it; or name an empty directory with --data")
	}
	stage := filepath.Join(r.Data, staging)
	if err := r.extract(ctx, stage); err != nil {
		return out, errors.Join(err, os.RemoveAll(stage))
	}
	r.step("extracted")
	if out.Schema, err = store.PrepareRestored(ctx, filepath.Join(stage, database)); err != nil {
		return out, errors.Join(err, os.RemoveAll(stage))
	}
	if err := r.opens(ctx, stage); err != nil {
		return out, errors.Join(err, os.RemoveAll(stage))
	}
	n := restoring{Aside: "before-restore-" + r.Now.UTC().Format("20060102T150405")}
	if err := syncTree(stage); err != nil {
		return out, err
	}
	r.step("prepared")
	if err := writeNote(r.Data, n); err != nil {
		return out, err
	}
	r.step("noted")
	if err := finish(r.Data, n, r.step); err != nil {
		return out, err
	}
	if occupied {
		out.Aside = filepath.Join(r.Data, n.Aside)
	}
	out.Keys, err = exists(filepath.Join(r.Data, masterKey))
	return out, err
}

// opens asks for the master key of what was unpacked.
func (r Restore) opens(ctx context.Context, stage string) error {
	if r.Opens == nil {
		return nil
	}
	key := filepath.Join(stage, masterKey)
	if has, err := exists(key); err != nil {
		return err
	} else if !has {
		key = ""
	}
	return r.Opens(ctx, filepath.Join(stage, database), key)
}

// extract puts a backup's files into a folder of their own.
func (r Restore) extract(ctx context.Context, stage string) error {
	if err := errors.Join(os.RemoveAll(stage), os.Mkdir(stage, 0o700)); err != nil {
		return fmt.Errorf("make room for the backup: %w", err)
	}
	root, err := os.OpenRoot(stage)
	if err != nil {
		return fmt.Errorf("make room for the backup: %w", err)
	}
	defer root.Close()
	found := false
	err = unpack(ctx, r.File, func(name string, content io.Reader) error {
		found = found || name == database
		if err := root.MkdirAll(path.Dir(name), 0o700); err != nil {
			return fmt.Errorf("unpack %s: %w", name, err)
		}
		f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return fmt.Errorf("unpack %s: %w", name, err)
		}
		if _, err := io.Copy(f, content); err != nil {
			return errors.Join(broken(err), f.Close())
		}
		return errors.Join(f.Sync(), f.Close())
	})
	if err == nil && !found {
		err = broken(errors.New("it has no database in it"))
	}
	return err
}

func writeNote(data string, n restoring) error {
	raw, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("note the restore: %w", err)
	}
	temp := filepath.Join(data, note+".tmp")
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("note the restore: %w", err)
	}
	_, err = f.Write(raw)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("note the restore: %w", err)
	}
	if err := os.Rename(temp, filepath.Join(data, note)); err != nil {
		return fmt.Errorf("note the restore: %w", err)
	}
	return syncDir(data)
}

// Finish ends a restore that was interrupted: one that was noted is done, any
// other leaves no trace. The caller has locked the data directory.
func Finish(data string) error {
	raw, err := os.ReadFile(filepath.Join(data, note))
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.RemoveAll(filepath.Join(data, staging)); err != nil {
			return fmt.Errorf("remove what a restore left: %w", err)
		}
		return nil
	}
	var n restoring
	if err == nil {
		err = json.Unmarshal(raw, &n)
	}
	if err == nil && !filepath.IsLocal(n.Aside) {
		err = errors.New("it names no folder")
	}
	if err != nil {
		return fmt.Errorf("read the note of a restore: %w", err)
	}
	return finish(data, n, func(string) {})
}

// finish puts the staged files in place. Each step is done once, however often
// it is begun: what is not staged any more is in place.
func finish(data string, n restoring, step func(string)) error {
	if err := os.MkdirAll(filepath.Join(data, n.Aside), 0o700); err != nil {
		return fmt.Errorf("put aside what is there: %w", err)
	}
	for _, name := range []string{logs, blobs, masterKey, adminToken, database} {
		staged, err := exists(filepath.Join(data, staging, name))
		if err != nil {
			return err
		}
		if !staged {
			continue
		}
		with := []string{name}
		if name == database { // its log belongs to it, and would be taken for the new one's
			with = []string{database + "-wal", database + "-shm", database}
		}
		for _, old := range with {
			err := os.Rename(filepath.Join(data, old), filepath.Join(data, n.Aside, old))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("put aside what is there: %w", err)
			}
			step("aside " + old)
		}
		if err := os.Rename(filepath.Join(data, staging, name), filepath.Join(data, name)); err != nil {
			return fmt.Errorf("put %s in place: %w", name, err)
		}
		step("placed " + name)
	}
	_ = os.Remove(filepath.Join(data, n.Aside)) // goes if nothing was there
	if err := syncDir(data); err != nil {
		return err
	}
	if err := errors.Join(os.Remove(filepath.Join(data, note)), os.RemoveAll(filepath.Join(data, staging))); err != nil {
		return fmt.Errorf("end the restore: %w", err)
	}
	return syncDir(data)
}

func exists(name string) (bool, error) {
	_, err := os.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at the data directory: %w", err)
	}
	return true, nil
}

// syncTree syncs the folders of a tree; its files are.
func syncTree(root string) error {
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return err
		}
		return syncDir(path)
	})
}
