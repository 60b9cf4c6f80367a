package segment

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
)

// What one page of a search may cost.
const (
	searchBytes = 512 << 20 // of text
	searchTime  = 2 * time.Second
	// waveFrames is how many frames are looked at together, for each CPU.
	waveFrames = 8
)

// Search implements logs.Searcher. Lines of frames that can't be read are not found.
func (s *Store) Search(ctx context.Context, orgID string, q logs.Query) (_ logs.Page, err error) {
	m, err := q.Compile()
	if err != nil {
		return logs.Page{}, err
	}
	all, err := s.attempts(orgID)
	if err != nil {
		return logs.Page{}, err
	}
	if q.Attempts != nil {
		wanted := map[string]bool{}
		for _, id := range q.Attempts {
			wanted[id] = true
		}
		all = slices.DeleteFunc(all, func(id string) bool { return !wanted[id] })
	}
	f := finder{store: s, orgID: orgID, matcher: m, deadline: time.Now().Add(s.searchTime), left: m.Query.Limit, scratch: make(chan *scratch, runtime.GOMAXPROCS(0))}
	defer func() { err = errors.Join(err, f.close(nil)) }()
	for i, id := range slices.Backward(all) {
		from := m.After.From(id)
		if from == 0 {
			continue
		}
		done, err := f.log(ctx, id, from)
		if err != nil || done {
			return f.page, err
		}
		if i == 0 || time.Now().Before(f.deadline) {
			continue
		}
		// A page ends in time also where no frame of many logs can have what is wanted.
		if done, err := f.look(ctx, nil); err != nil || done {
			return f.page, err
		}
		f.page.Next = logs.EndOf(id).String()
		return f.page, nil
	}
	_, err = f.look(ctx, nil)
	return f.page, err
}

// finder makes one page.
type finder struct {
	store    *Store
	orgID    string
	matcher  *logs.Matcher
	deadline time.Time
	scratch  chan *scratch

	page logs.Page
	left int // lines that the page has room for
	text int // bytes of those that it has
	wave []piece
	open []file
}

// scratch is what is used again and again.
type scratch struct{ packed, text []byte }

// piece is a frame, or lines in memory, that is to be looked at.
type piece struct {
	key   nimbus.LogKey
	in    file
	frame frame
	block *block // instead of a frame
	from  int64
}

func (p *piece) last() int64 {
	if p.block != nil {
		return p.block.first + int64(p.block.rows) - 1
	}
	return p.frame.last()
}

// log looks through a log, together with others. done says that the page is full.
func (f *finder) log(ctx context.Context, id string, from int64) (done bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, fmt.Errorf("search: %w", err)
	}
	key := nimbus.LogKey{OrgID: f.orgID, AttemptID: id}
	frames, pending, in, err := f.store.snapshot(key)
	if err != nil {
		return false, err
	}
	if in != nil {
		f.open = append(f.open, in)
	}
	for _, x := range frames {
		if x.last() < from || !x.may(f.matcher) {
			continue
		}
		f.wave = append(f.wave, piece{key: key, in: in, frame: x, from: from})
		if len(f.wave) >= waveFrames*cap(f.scratch) {
			if done, err := f.look(ctx, in); done || err != nil {
				return done, err
			}
		}
	}
	if pending.rows > 0 {
		f.wave = append(f.wave, piece{key: key, block: &pending, from: from})
	}
	if len(f.wave) >= waveFrames*cap(f.scratch) || len(f.open) >= maxOpen/4 {
		return f.look(ctx, nil)
	}
	return false, nil
}

// snapshot is what a log has now, with a file of its own for the frames: a search
// keeps nobody from appending.
func (s *Store) snapshot(key nimbus.LogKey) (frames []frame, pending block, in file, err error) {
	a, err := s.acquire(key)
	if err != nil {
		return nil, pending, nil, err
	}
	defer s.release(a)
	a.mu.RLock()
	defer a.mu.RUnlock()
	if len(a.frames) > 0 {
		in, err = s.disk.openFile(filepath.Join(s.dir, key.OrgID, key.AttemptID+extension), os.O_RDONLY)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, pending, nil, nil
		}
		if err != nil {
			return nil, pending, nil, fmt.Errorf("search a log: %w", err)
		}
	}
	return a.frames[:len(a.frames):len(a.frames)], a.pending, in, nil
}

// close closes the files of what was looked at, but for one.
func (f *finder) close(but file) (err error) {
	for _, in := range f.open {
		if in != but {
			err = errors.Join(err, in.Close())
		}
	}
	f.open = f.open[:0]
	if but != nil {
		f.open = append(f.open, but)
	}
	return err
}

// look looks at what was gathered, on all CPUs, and adds what it finds in its order.
// The file current is needed after it, too.
func (f *finder) look(ctx context.Context, current file) (done bool, err error) {
	wave := f.wave
	f.wave = nil
	defer func() { err = errors.Join(err, f.close(current)) }()
	found, scanned := make([][]row, len(wave)), make([]int64, len(wave))
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(cap(f.scratch))
	for i := range wave {
		work.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			found[i], scanned[i] = f.lines(&wave[i])
			return nil
		})
	}
	if err := work.Wait(); err != nil {
		return false, fmt.Errorf("search: %w", err)
	}
	for i, rows := range found {
		f.page.Scanned += scanned[i]
		for _, r := range rows {
			f.page.Found = append(f.page.Found, logs.Found{Key: wave[i].key, Line: r.Line, Level: r.level})
			f.left--
			f.text += len(r.Text)
			if f.left == 0 || f.text >= logs.MaxPageText {
				return f.end(wave[i].key, r.Seq), nil
			}
		}
	}
	if len(wave) > 0 && (f.page.Scanned >= searchBytes || time.Now().After(f.deadline)) {
		last := wave[len(wave)-1]
		return f.end(last.key, last.last()), nil
	}
	return false, nil
}

// end says where the next page goes on.
func (f *finder) end(key nimbus.LogKey, seq int64) bool {
	f.page.Next = logs.Position{AttemptID: key.AttemptID, Seq: seq}.String()
	return true
}

// lines returns the wanted lines of a piece, and how much text it looked at.
func (f *finder) lines(p *piece) (out []row, scanned int64) {
	rows, scanned, err := f.candidates(p)
	if err != nil {
		f.store.log.Error("a part of a log could not be searched", "attempt", p.key.AttemptID, "line", p.frame.first, "error", err)
		return nil, scanned
	}
	for _, r := range rows {
		if r.Seq >= p.from && f.matcher.Line(r.Line, r.level) && f.matcher.Text(r.Text) {
			r.Text = string([]byte(r.Text)) // not the whole frame with it
			if out = append(out, r); len(out) == f.matcher.Query.Limit {
				break
			}
		}
	}
	return out, scanned
}

// candidates returns the lines of a piece, none where its text says that none is wanted.
func (f *finder) candidates(p *piece) (rows []row, scanned int64, err error) {
	literal := []byte(f.matcher.Literal())
	if p.block != nil {
		scanned = int64(len(p.block.text))
		if !bytes.Contains(p.block.text, literal) {
			return nil, scanned, nil
		}
		rows, err = readRows(p.block.first, p.block.rows, p.block.meta, string(p.block.text))
		return rows, scanned, err
	}
	if p.frame.old {
		rows, err = f.store.rows(p.in, p.frame)
		return rows, int64(p.frame.rawText), err
	}
	var s *scratch
	select {
	case s = <-f.scratch:
	default:
		s = &scratch{}
	}
	defer func() {
		select {
		case f.scratch <- s:
		default:
		}
	}()
	size := headerSize + p.frame.meta + p.frame.text
	s.packed = slices.Grow(s.packed[:0], size)[:size]
	if _, err := p.in.ReadAt(s.packed, p.frame.offset); err != nil {
		return nil, 0, err
	}
	if !p.frame.sound(s.packed) {
		return nil, 0, errDamaged
	}
	packed := s.packed[headerSize:]
	if s.text, err = f.store.decoder.DecodeAll(packed[p.frame.meta:], s.text[:0]); err != nil {
		return nil, 0, err
	}
	scanned = int64(len(s.text))
	if !bytes.Contains(s.text, literal) {
		return nil, scanned, nil
	}
	meta, err := f.store.decoder.DecodeAll(packed[:p.frame.meta], nil)
	if err != nil {
		return nil, scanned, err
	}
	rows, err = readRows(p.frame.first, p.frame.rows, meta, string(s.text))
	return rows, scanned, err
}
