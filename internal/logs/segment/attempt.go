package segment

import (
	"bytes"
	"container/list"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
)

// attempt is one log: what is in its file, and what waits in memory.
type attempt struct {
	store *Store
	key   nimbus.LogKey
	path  string

	refs  int           // guarded by the store's mu
	place *list.Element // likewise

	writing sync.Mutex // held by the one who appends or deletes

	fileMu sync.Mutex
	file   file // nil while it is closed

	mu      sync.RWMutex
	loaded  bool
	frames  []frame // only added to
	size    int64   // where the next frame goes
	torn    bool    // the file may go on after size
	fresh   bool    // the file's name may not survive a power cut
	stuck   bool    // a sync failed: what the file has is not known
	pending block
	touched time.Time // the last append
	deleted int       // how often

	// Files of the journal, 0 for none: of what is being appended now, of the first
	// line in pending, of each frame that is not synced.
	reserved, since int64
	unsynced        []int64
}

// end is the log's last line.
func (a *attempt) end() int64 {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.lastLine()
}

func (a *attempt) lastLine() int64 {
	if a.pending.rows > 0 {
		return a.pending.first + int64(a.pending.rows) - 1
	}
	if len(a.frames) > 0 {
		return a.frames[len(a.frames)-1].last()
	}
	return 0
}

func (a *attempt) stored() int64 {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.size
}

// settled tells whether all lines are in synced frames.
func (a *attempt) settled() bool { return a.oldest() == 0 }

// nothing tells whether there is no such log.
func (a *attempt) nothing() bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return len(a.frames) == 0 && a.pending.rows == 0
}

// oldest is the first file of the journal that has lines that are not in synced
// frames, 0 for none.
func (a *attempt) oldest() int64 {
	a.mu.RLock()
	defer a.mu.RUnlock()
	oldest := a.reserved
	if a.since != 0 && (oldest == 0 || a.since < oldest) {
		oldest = a.since
	}
	if len(a.unsynced) > 0 && (oldest == 0 || a.unsynced[0] < oldest) {
		oldest = a.unsynced[0]
	}
	return oldest
}

// handle opens the file if it is closed.
func (a *attempt) handle(flag int) (file, error) {
	a.fileMu.Lock()
	defer a.fileMu.Unlock()
	if a.file != nil {
		return a.file, nil
	}
	f, err := a.store.disk.openFile(a.path, os.O_RDWR|flag)
	if err != nil {
		return nil, err
	}
	a.file = f
	a.store.handles.Add(1)
	return f, nil
}

func (a *attempt) closeFile() error {
	a.fileMu.Lock()
	defer a.fileMu.Unlock()
	if a.file == nil {
		return nil
	}
	err := a.file.Close()
	a.file = nil
	a.store.handles.Add(-1)
	return err
}

// load reads the headers of a log that was not used before.
func (a *attempt) load() error {
	a.mu.RLock()
	loaded := a.loaded
	a.mu.RUnlock()
	if loaded {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.loaded {
		return nil
	}
	f, err := a.handle(0)
	if errors.Is(err, fs.ErrNotExist) {
		a.loaded = true
		return nil
	}
	if err == nil {
		a.frames, a.size, a.torn, err = scan(f)
	}
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	a.loaded = true
	return nil
}

// scan reads the headers of a file. What is torn at its end, by a crash, is not
// counted; what is damaged before it is stepped over, so that the rest can be read.
func scan(in file) (frames []frame, size int64, torn bool, err error) {
	info, err := in.Stat()
	if err != nil {
		return nil, 0, false, err
	}
	last := int64(0)
	for at := int64(0); at < info.Size(); {
		head := make([]byte, min(headerSize, info.Size()-at))
		if _, err := in.ReadAt(head, at); err != nil {
			return nil, 0, false, err
		}
		f, ok := parseHeader(head, at)
		if !ok || f.first <= last || f.end() > info.Size() {
			if at, err = nextHeader(in, at+1, info.Size(), last); err != nil {
				return nil, 0, false, err
			}
			continue
		}
		// An old frame was synced before the next was written: only the last can be torn.
		if f.old && f.end() == info.Size() && !isSound(in, f) {
			break
		}
		frames, size, last, at = append(frames, f), f.end(), f.last(), f.end()
	}
	return frames, size, size != info.Size(), nil
}

// nextHeader finds where a frame begins after a damaged one; end if none does.
func nextHeader(in file, at, end, last int64) (int64, error) {
	const window = 1 << 20
	buf := make([]byte, window+headerSize)
	for ; at < end; at += window {
		part := buf[:min(int64(len(buf)), end-at)]
		if _, err := in.ReadAt(part, at); err != nil {
			return 0, err
		}
		for i := 0; ; i++ {
			j := bytes.Index(part[i:], []byte(magic))
			if j < 0 || i+j >= window {
				break
			}
			i += j
			if f, ok := parseHeader(part[i:], at+int64(i)); ok && f.first > last && f.end() <= end {
				return at + int64(i), nil
			}
		}
	}
	return end, nil
}

func isSound(in file, f frame) bool {
	whole := make([]byte, f.header()+f.meta+f.text)
	_, err := in.ReadAt(whole, f.offset)
	return err == nil && f.sound(whole)
}

// verify looks at the frames whose lines the journal has, from line first on: they may
// not have been synced. From the first that is not as it was written, they are made again.
func (a *attempt) verify(first int64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, f := range a.frames {
		if f.first < first {
			continue
		}
		in, err := a.handle(0)
		if err != nil {
			return err
		}
		if !isSound(in, f) {
			a.frames, a.size, a.torn = a.frames[:i], f.offset, true
			return nil
		}
	}
	return nil
}

// reserve keeps the journal from being removed from here on, and makes room in
// memory for what comes.
func (a *attempt) reserve(s *Store) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.pending.text) >= frameText { // it could not be written before
		if err := a.seal(); err != nil {
			return err
		}
	}
	a.reserved = s.journal.number()
	return nil
}

func (a *attempt) unreserve() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reserved = 0
}

// add takes in lines that file number of the journal has.
func (s *Store) add(a *attempt, lines []nimbus.Line, number int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	before := a.pending.size()
	for _, l := range lines {
		a.pending.add(l, logs.LevelOf(l.Text))
		if a.since == 0 {
			a.since = number
		}
		if len(a.pending.text) < frameText {
			continue
		}
		s.pending.Add(int64(a.pending.size() - before))
		if err := a.seal(); err != nil { // the lines stay in memory and in the journal
			s.log.Error("lines could not be written to their log", "attempt", a.key.AttemptID, "error", err)
		}
		before = a.pending.size()
	}
	if s.pending.Add(int64(a.pending.size()-before)) > maxPending {
		if err := a.seal(); err != nil {
			s.log.Error("lines could not be written to their log", "attempt", a.key.AttemptID, "error", err)
		}
	}
	a.reserved, a.touched = 0, time.Now()
}

// seal writes what is in memory as a frame. Called with mu held.
func (a *attempt) seal() error {
	if a.pending.rows == 0 {
		return nil
	}
	if err := a.store.disk.mkdir(filepath.Dir(a.path)); err != nil {
		return fmt.Errorf("write a frame: %w", err)
	}
	out, err := a.handle(os.O_CREATE)
	if err != nil {
		return fmt.Errorf("write a frame: %w", err)
	}
	if a.torn {
		if err := out.Truncate(a.size); err != nil {
			return fmt.Errorf("cut off what is torn: %w", err)
		}
		a.torn = false
	}
	whole, f := a.store.pack(&a.pending)
	f.offset = a.size
	if _, err := out.WriteAt(whole, a.size); err != nil {
		a.torn = true
		return fmt.Errorf("write a frame: %w", err)
	}
	a.fresh = a.fresh || len(a.frames) == 0
	a.frames, a.size = append(a.frames, f), f.end()
	a.unsynced = append(a.unsynced, a.since)
	a.store.pending.Add(-int64(a.pending.size()))
	a.pending, a.since = block{}, 0
	return nil
}

// sync has the frames that were written survive a power cut.
func (a *attempt) sync() error {
	a.mu.RLock()
	n, fresh, stuck, deleted := len(a.unsynced), a.fresh, a.stuck, a.deleted
	a.mu.RUnlock()
	if n == 0 || stuck {
		return nil
	}
	out, err := a.handle(0)
	if err == nil {
		err = out.Sync()
	}
	if err == nil && fresh {
		if err = a.store.disk.syncDir(filepath.Dir(a.path)); err == nil {
			err = a.store.disk.syncDir(a.store.dir)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.deleted != deleted {
		return nil
	}
	if err != nil {
		// The kernel may think that it is clean now: the journal stays, and the next
		// start looks at each frame.
		a.stuck = true
		return fmt.Errorf("sync a log: %w", err)
	}
	a.unsynced, a.fresh = a.unsynced[n:], false
	return nil
}

// empty forgets the lines of a log that was deleted. Called with mu held.
func (a *attempt) empty() {
	a.deleted++
	a.frames, a.size, a.torn, a.fresh, a.stuck = nil, 0, false, false, false
	a.pending, a.since, a.unsynced = block{}, 0, nil
}

// unsure says that frames with lines of a file of the journal may not be synced.
func (a *attempt) unsure(number int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.unsynced) == 0 && len(a.frames) > 0 {
		a.unsynced, a.fresh = []int64{number}, true
	}
}
