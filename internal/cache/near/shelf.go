package near

import (
	"container/list"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/transfer"
)

// Folders of a shelf. What is in drafts is of a process that still writes it, or
// of one that is no more.
const (
	draftsDir    = "drafts"
	entriesDir   = "entries"
	manifestName = "manifest.json"
)

const (
	// blockBytes is what a file takes at least: its size is counted in these.
	blockBytes = 4 << 10
	// maxManifest bounds a manifest that is read: the most pieces fit.
	maxManifest = 8 << 20
	// Of how many parts of a shelf one is set aside for what comes of uploads before
	// the origin has taken it, and how many bytes of a small one.
	spareParts = 8
	minSpare   = 4 << 20
	// touchAfter is how often it is written to the disk that an entry was used.
	touchAfter = time.Minute
)

// name is what a content is kept under. An id is never given again, so that what
// is kept under one never changes; the org keeps tenants apart on the disk, too.
type name struct {
	org string
	id  int64
}

func nameOf(e transfer.Entry) (name, bool) {
	return name{e.OrgID, e.ID}, nimbus.CheckID(nimbus.PrefixOrg, e.OrgID) == nil && e.ID > 0
}

// piece is a part of a content, a file.
type piece struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`

	file string // while it is a draft
}

// manifest says of what pieces a content is. Without one a folder is none.
type manifest struct {
	Pieces []piece `json:"pieces"`
}

// held is a content that is on the shelf whole.
type held struct {
	name

	dir    string
	pieces []piece
	starts []int64 // where in the content each begins
	size   int64
	cost   int64 // bytes that it takes
	// below: guarded by the shelf
	readers int
	sound   []bool // pieces that were written, or read through, by this process
	gone    bool   // it is not found any more; its files go with the last reader
	touched time.Time
	place   *list.Element
}

// shelf keeps contents on a disk, as copies that may go at any time: the least
// recently used first, and none that is being read. What a crash leaves of a
// draft goes when it is opened; a power cut may leave a content whose bytes are
// others, which is found out by their hash before they are sent.
type shelf struct {
	dir   string
	most  int64 // bytes, without what is set aside
	spare int64 // what is set aside for uploads that the origin has not taken
	log   *slog.Logger
	tally *tally

	mu      sync.Mutex
	held    map[name]*held
	recent  *list.List // of *held, the last used first
	used    int64      // bytes of what is held, and of drafts
	aside   int64      // bytes of drafts in what is set aside
	pressed bool       // the disk is full: nothing more is taken
	trash   []string   // folders of what was removed
}

// unlock removes what was taken off the shelf, when nobody waits for it.
func (s *shelf) unlock() {
	trash := s.trash
	s.trash = nil
	s.mu.Unlock()
	for _, dir := range trash {
		if err := os.RemoveAll(dir); err != nil {
			s.log.Warn("files could not be removed from the cache of this host, its next start does it", "error", err)
		}
	}
}

// openShelf opens the shelf in a folder, which is one process's alone.
func openShelf(dir string, most int64, t *tally, log *slog.Logger) (*shelf, error) {
	spare := min(max(most/spareParts, minSpare), most/4)
	s := &shelf{dir: dir, most: most - spare, spare: spare, log: log, tally: t, held: map[name]*held{}, recent: list.New()}
	if err := errors.Join(os.RemoveAll(s.path(draftsDir)), os.MkdirAll(s.path(draftsDir), 0o700), os.MkdirAll(s.path(entriesDir), 0o700)); err != nil {
		return nil, fmt.Errorf("open the cache of this host: %w", err)
	}
	if err := s.scan(); err != nil {
		return nil, fmt.Errorf("look what is in the cache of this host: %w", err)
	}
	s.mu.Lock()
	defer s.unlock()
	s.makeRoom(0)
	return s, nil
}

func (s *shelf) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

// draftPath is a new one.
func (s *shelf) draftPath() string { return s.path(draftsDir, rand.Text()) }

// take finds a content and keeps it until it is given back.
func (s *shelf) take(n name, size int64) (*held, bool) {
	s.mu.Lock()
	defer s.unlock()
	h, ok := s.held[n]
	if !ok {
		return nil, false
	}
	if h.size != size { // of another installation, or of a server that was put back
		s.remove(h)
		return nil, false
	}
	h.readers++
	s.recent.MoveToFront(h.place)
	if now := time.Now(); now.Sub(h.touched) > touchAfter {
		h.touched = now
		_ = os.Chtimes(filepath.Join(h.dir, manifestName), now, now) // only its place after a restart is lost
	}
	return h, true
}

// giveBack is for each take one.
func (s *shelf) giveBack(h *held) {
	s.mu.Lock()
	defer s.unlock()
	if h.readers--; h.readers == 0 && h.gone {
		s.clear(h)
	}
}

// drop takes a content away that is not what it should be.
func (s *shelf) drop(h *held, why error) {
	s.log.Warn("a content in the cache of this host is broken: it is removed, and fetched anew when it is asked for", "org", h.org, "entry", h.id, "error", why)
	s.tally.corrupt.Add(1)
	s.mu.Lock()
	defer s.unlock()
	s.remove(h)
}

// remove has a content not be found any more. The caller holds the lock.
func (s *shelf) remove(h *held) {
	if h.gone {
		return
	}
	h.gone = true
	delete(s.held, h.name)
	s.recent.Remove(h.place)
	if h.readers == 0 {
		s.clear(h)
	}
}

// clear removes the files of a content. The caller holds the lock.
func (s *shelf) clear(h *held) {
	s.used -= h.cost
	// By one rename nobody finds a part of it, whatever happens then.
	out := s.draftPath()
	if err := os.Rename(h.dir, out); err != nil {
		s.log.Warn("a content could not be removed from the cache of this host", "entry", h.id, "error", err)
		return
	}
	_ = os.Remove(filepath.Dir(h.dir)) // the org's folder, if that was its last
	s.trash = append(s.trash, out)
}

// claim counts bytes before they are written. false: there is no room for them,
// and nothing is counted.
func (s *shelf) claim(bytes int64) bool {
	s.mu.Lock()
	defer s.unlock()
	if s.pressed || !s.makeRoom(bytes) {
		return false
	}
	s.used += bytes
	return true
}

// claimUnused is claim, but nothing goes for it that was used lately.
func (s *shelf) claimUnused(bytes int64) bool {
	s.mu.Lock()
	defer s.unlock()
	if s.pressed || !s.evict(time.Now().Add(-lately), func() bool { return s.used+bytes > s.most }) {
		return false
	}
	s.used += bytes
	return true
}

// claimFree is claim, but nothing goes for it.
func (s *shelf) claimFree(bytes int64) bool {
	s.mu.Lock()
	defer s.unlock()
	if s.pressed || s.used+bytes > s.most {
		return false
	}
	s.used += bytes
	return true
}

// claimAside counts bytes in what is set aside.
func (s *shelf) claimAside(bytes int64) bool {
	s.mu.Lock()
	defer s.unlock()
	if s.pressed || s.aside+bytes > s.spare {
		return false
	}
	s.aside += bytes
	return true
}

// freeAside gives back what was counted there.
func (s *shelf) freeAside(bytes int64) {
	s.mu.Lock()
	defer s.unlock()
	s.aside -= bytes
}

// lately is for how long what was used stays when room is made for what nobody has
// asked for yet.
const lately = time.Hour

// free gives back what was claimed.
func (s *shelf) free(bytes int64) {
	s.mu.Lock()
	defer s.unlock()
	s.used -= bytes
}

// fits tells whether a content of a size is kept at all: one of more than half of
// what there is would have everything else go.
func (s *shelf) fits(size int64) bool { return size <= (s.most+s.spare)/2 }

// makeRoom removes what was not used for longest until so many bytes more fit.
// The caller holds the lock.
func (s *shelf) makeRoom(bytes int64) bool {
	return s.evict(time.Time{}, func() bool { return s.used+bytes > s.most })
}

// evict removes what was not used for longest while there is too much; with a
// time, nothing that was used since. false: it is too much still, as what is read stays. The caller
// holds the lock.
func (s *shelf) evict(since time.Time, tooMuch func() bool) bool {
	for e := s.recent.Back(); e != nil && tooMuch(); {
		h, ok := e.Value.(*held)
		e = e.Prev()
		if ok && h.readers == 0 && (since.IsZero() || !h.touched.After(since)) {
			s.tally.evicted.Add(1)
			s.tally.evictedBytes.Add(h.size)
			s.remove(h)
		}
	}
	return !tooMuch()
}

// giveWay removes contents of so many bytes, as the disk is over its threshold by
// them, and takes no more until it isn't.
func (s *shelf) giveWay(over int64) {
	s.mu.Lock()
	defer s.unlock()
	s.pressed = over > 0
	if left := s.used - over; s.pressed {
		s.evict(time.Time{}, func() bool { return s.used > left })
	}
}

// put makes a content of pieces that are written, and for which bytes were
// claimed; the caller's part of them ends here. One that is there already stays.
func (s *shelf) put(n name, pieces []piece, claimed int64) error {
	draft := s.draftPath()
	h, err := s.settle(draft, n, pieces)
	if err != nil {
		s.free(claimed)
		return errors.Join(fmt.Errorf("keep a content: %w", err), os.RemoveAll(draft))
	}
	s.mu.Lock()
	defer s.unlock()
	s.used -= claimed
	if _, there := s.held[n]; there {
		return os.RemoveAll(draft) //nolint:wrapcheck // it is told where it is logged
	}
	err = errors.Join(os.MkdirAll(filepath.Dir(h.dir), 0o700), os.Rename(draft, h.dir))
	if err != nil {
		return errors.Join(fmt.Errorf("keep a content: %w", err), os.RemoveAll(draft))
	}
	s.add(h)
	s.makeRoom(0)
	return nil
}

// settle moves pieces into a draft, and says of what it is.
func (s *shelf) settle(draft string, n name, pieces []piece) (*held, error) {
	if err := os.Mkdir(draft, 0o700); err != nil {
		return nil, err //nolint:wrapcheck // put wraps it
	}
	for i, p := range pieces {
		if err := os.Rename(p.file, filepath.Join(draft, strconv.Itoa(i))); err != nil {
			return nil, err //nolint:wrapcheck // put wraps it
		}
	}
	text, err := json.Marshal(manifest{pieces})
	if err != nil {
		return nil, err //nolint:wrapcheck // put wraps it
	}
	// Who still reads one that was dropped has that one's folder.
	h := newHeld(n, s.path(entriesDir, n.org, strconv.FormatInt(n.id, 10)+"."+rand.Text()), pieces)
	for i := range h.sound {
		h.sound[i] = true
	}
	h.touched = time.Now()
	return h, os.WriteFile(filepath.Join(draft, manifestName), text, 0o600) //nolint:wrapcheck // put wraps it
}

func newHeld(n name, dir string, pieces []piece) *held {
	h := &held{name: n, dir: dir, pieces: pieces, starts: make([]int64, len(pieces)), sound: make([]bool, len(pieces)), cost: blockBytes}
	for i, p := range pieces {
		h.starts[i] = h.size
		h.size += p.Size
		h.cost += blocks(p.Size)
	}
	return h
}

// blocks is what a file of a size takes of the disk.
func blocks(size int64) int64 { return (size + blockBytes - 1) / blockBytes * blockBytes }

// add has a content be found. The caller holds the lock, or is the only one.
func (s *shelf) add(h *held) {
	s.used += h.cost
	s.held[h.name] = h
	h.place = s.recent.PushFront(h)
}

// holding is what a shelf has.
type holding struct {
	entries int64
	bytes   int64 // with drafts
}

func (s *shelf) holds() holding {
	s.mu.Lock()
	defer s.unlock()
	return holding{int64(len(s.held)), s.used + s.aside}
}

// scan finds what an earlier process kept. What is not as its manifest says goes.
func (s *shelf) scan() error {
	orgs, err := os.ReadDir(s.path(entriesDir))
	if err != nil {
		return err //nolint:wrapcheck // openShelf wraps it
	}
	var found []*held
	for _, org := range orgs {
		if !org.IsDir() {
			s.log.Warn("a file that is no content is left alone in the cache of this host", "file", org.Name())
			continue
		}
		entries, err := os.ReadDir(s.path(entriesDir, org.Name()))
		if err != nil {
			return err //nolint:wrapcheck // openShelf wraps it
		}
		for _, e := range entries {
			h, err := s.read(org.Name(), e.Name())
			if err == nil {
				found = append(found, h)
				continue
			}
			s.log.Warn("what is no content is removed from the cache of this host", "org", org.Name(), "entry", e.Name(), "error", err)
			if err := os.RemoveAll(s.path(entriesDir, org.Name(), e.Name())); err != nil {
				return err //nolint:wrapcheck // openShelf wraps it
			}
		}
	}
	slices.SortFunc(found, func(a, b *held) int { return a.touched.Compare(b.touched) })
	for _, h := range found {
		if before, twice := s.held[h.name]; twice {
			s.remove(before)
		}
		s.add(h)
	}
	return nil
}

var errNoContent = errors.New("it is not as its manifest says")

// read reads what a content consists of; its bytes are looked at when they are
// first used.
func (s *shelf) read(org, folder string) (*held, error) {
	number, _, _ := strings.Cut(folder, ".")
	id, ok := transfer.Plain(number)
	n, ok2 := nameOf(transfer.Entry{OrgID: org, ID: id})
	if !ok || !ok2 {
		return nil, errNoContent
	}
	dir := s.path(entriesDir, org, folder)
	path := filepath.Join(dir, manifestName)
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err //nolint:wrapcheck // scan logs it
	}
	if !info.Mode().IsRegular() || info.Size() > maxManifest {
		return nil, errNoContent
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err //nolint:wrapcheck // scan logs it
	}
	var m manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, err //nolint:wrapcheck // scan logs it
	}
	for i, p := range m.Pieces {
		file, err := os.Lstat(filepath.Join(dir, strconv.Itoa(i)))
		if err != nil {
			return nil, err //nolint:wrapcheck // scan logs it
		}
		if !file.Mode().IsRegular() || file.Size() != p.Size || p.Size <= 0 {
			return nil, errNoContent
		}
	}
	h := newHeld(n, dir, m.Pieces)
	h.touched = info.ModTime()
	return h, nil
}
