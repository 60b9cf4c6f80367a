package runnerlog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// follow makes a folder and watches it, unless what it would lie in is missing.
func (t *Tail) follow(dir string) error {
	parent, err := os.Stat(filepath.Dir(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find the runner's folder: %w", err)
	}
	for _, d := range []string{dir, filepath.Join(dir, pagesDir)} {
		if err := makeFolder(d, parent); err != nil {
			return err
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("open the runner's diagnostics: %w", err)
	}
	t.roots = append(t.roots, root)
	if t.watch != nil && errors.Join(t.watch.add(dir), t.watch.add(filepath.Join(dir, pagesDir))) != nil {
		t.unwatch() // watches of all folders are bounded too
	}
	return nil
}

// makeFolder makes a folder for the owner of the runner, who will write there.
func makeFolder(dir string, owner fs.FileInfo) error {
	err := os.Mkdir(dir, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if sys, ok := owner.Sys().(*syscall.Stat_t); ok && err == nil && os.Geteuid() == 0 {
		err = os.Lchown(dir, int(sys.Uid), int(sys.Gid))
	}
	if err != nil {
		return fmt.Errorf("make the runner's diagnostics folder: %w", err)
	}
	return nil
}

// list opens the pages that are new.
func (t *Tail) list() {
	for _, root := range t.roots {
		dir, err := root.Open(pagesDir)
		if err != nil {
			continue // the job may do with it what it likes
		}
		names, _ := dir.Readdirnames(maxNames) // what could be read
		dir.Close()
		for _, name := range names {
			id, number, ok := parseName(name)
			full := t.open >= maxOpen || len(t.names) >= maxNames
			if !ok || t.names[name] || full && id != t.worker.job {
				continue
			}
			p, err := openPage(root, filepath.Join(pagesDir, name))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			t.names[name] = true
			if err != nil {
				continue
			}
			t.record(id).pages[number] = p
			t.open++
		}
	}
}

func (t *Tail) record(id string) *record {
	for _, r := range t.records {
		if r.id == id {
			return r
		}
	}
	r := &record{id: id, pages: map[int]*page{}, next: 1}
	t.records = append(t.records, r)
	return r
}

// maxLogs bounds the worker's logs: it begins another one at 8 MiB.
const maxLogs = 64

func (t *Tail) readLogs() {
	for _, root := range t.roots {
		dir, err := root.Open(".")
		if err != nil {
			continue
		}
		names, _ := dir.Readdirnames(maxNames)
		dir.Close()
		slices.Sort(names) // their names have the time
		for _, name := range names {
			if !strings.HasPrefix(name, "Worker_") || !strings.HasSuffix(name, ".log") {
				continue
			}
			if t.logs[name] == nil && len(t.logs) < maxLogs {
				if p, err := openPage(root, name); err == nil {
					t.logs[name] = p
				}
			}
			if p := t.logs[name]; p != nil {
				_ = p.read(t.buf, func(_ time.Time, n line) { t.worker.take(n.text) }) // what could be read
			}
		}
	}
}
