// Package wal keeps the lines of one attempt on the host's disk until the
// server has acknowledged them, together with where in the guest's output they
// end: so that an agent that is killed at any moment goes on with the next
// byte, without a line lost or doubled.
//
// The log is a folder of files named by their first line. A record is a
// length, a CRC and a payload; a torn one at the end of the last file is cut
// off. Files whose lines are all acknowledged are removed.
package wal

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
	"github.com/nimbus-ci/nimbus/internal/wholefile"
)

const (
	// fileSize is how large a file grows before the next one begins.
	fileSize = 8 << 20
	// maxRecord is the largest payload: a line, or a checkpoint with what is
	// pending of two streams and the masks.
	maxRecord  = 4 << 20
	headerSize = 8
	// lineOverhead is what a line counts beside its text when a Read is bounded:
	// a million empty lines are not nothing.
	lineOverhead = 64
	extension    = ".wal"
)

// Kinds of records.
const (
	kindLine       = 'L'
	kindCheckpoint = 'C'
)

// Checkpoint is where the attempt's output stands after the lines before it.
type Checkpoint struct {
	Event int64 `json:"event"` // last event of the guest that is in
	// State is what its writer needs to go on, which nobody else reads: it may hold
	// secrets, and is sealed then.
	State []byte `json:"state,omitempty"`

	// What was kept, open to read, before there was State.
	Step    int32                    `json:"step,omitempty"`
	Pending map[nimbus.Stream][]byte `json:"pending,omitempty"`
	Masks   []string                 `json:"masks,omitempty"`
}

// file is one file of the log.
type file struct {
	first int64 // its first line's number
	size  int64
}

// Log is the log of one attempt. It is safe for concurrent use by one writer
// and one reader.
type Log struct {
	dir   string
	limit int64

	mu         sync.Mutex
	files      []file
	out        *os.File // the last of files
	last       int64    // newest line
	acked      int64
	checkpoint Checkpoint
	changed    chan struct{}
	buf        []byte

	cursor cursor
}

// cursor is where the last Read ended.
type cursor struct {
	file   int64 // first line of the file
	offset int64
	next   int64 // line that is there
}

// ErrDamaged says that a log holds something else than what was written to it.
var ErrDamaged = errors.New("the log is damaged")

// Open opens the log in dir, which is made if need be. It holds up to limit
// bytes that aren't acknowledged; see Append. ErrDamaged stays whatever is tried.
func Open(dir string, limit int64) (*Log, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open wal: %w", err)
	}
	l := &Log{dir: dir, limit: limit, changed: make(chan struct{})}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open wal: %w", err)
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), extension)
		first, err := strconv.ParseInt(name, 10, 64)
		if !ok || err != nil {
			continue
		}
		l.files = append(l.files, file{first: first})
	}
	slices.SortFunc(l.files, func(a, b file) int { return int(a.first - b.first) })
	for i := range l.files {
		if err := l.recover(i); err != nil {
			return nil, err
		}
	}
	if len(l.files) > 0 {
		l.acked = l.files[0].first - 1
		return l, l.openLast(os.O_RDWR)
	}
	return l, nil
}

func (l *Log) path(first int64) string {
	return filepath.Join(l.dir, fmt.Sprintf("%012d%s", first, extension))
}

// recover reads one file and cuts a torn end off.
func (l *Log) recover(i int) error {
	path := l.path(l.files[i].first)
	raw, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("recover wal: %w", err)
	}
	// An append counts once its checkpoint is there: lines without it would
	// come twice, since the guest is asked for them again.
	// A file that begins without any tells by its name which came before.
	last := max(l.last, l.files[i].first-1)
	for rest := raw; ; {
		payload, after, ok := nextRecord(rest)
		if !ok {
			break
		}
		rest = after
		switch payload[0] {
		case kindLine:
			line, _, err := logs.DecodeRecord(payload[1:])
			if err != nil {
				return fmt.Errorf("recover wal %s: %w: %w", filepath.Base(path), ErrDamaged, err)
			}
			last = line.Seq
		case kindCheckpoint:
			l.checkpoint = Checkpoint{}
			if err := json.Unmarshal(payload[1:], &l.checkpoint); err != nil {
				return fmt.Errorf("recover wal %s: %w: %w", filepath.Base(path), ErrDamaged, err)
			}
			l.last = last
			l.files[i].size = int64(len(raw) - len(rest))
		}
	}
	if l.files[i].size == int64(len(raw)) {
		return nil
	}
	if i < len(l.files)-1 {
		return fmt.Errorf("recover wal: %s, in the middle of the log: %w", filepath.Base(path), ErrDamaged)
	}
	if err := os.Truncate(path, l.files[i].size); err != nil {
		return fmt.Errorf("cut torn end: %w", err)
	}
	return nil
}

// nextRecord takes a whole, sound record off the front of b.
func nextRecord(b []byte) (payload, rest []byte, ok bool) {
	if len(b) < headerSize {
		return nil, b, false
	}
	n := binary.LittleEndian.Uint32(b)
	if n == 0 || n > maxRecord || int(n) > len(b)-headerSize {
		return nil, b, false
	}
	payload = b[headerSize : headerSize+n]
	if crc32.ChecksumIEEE(payload) != binary.LittleEndian.Uint32(b[4:]) {
		return nil, b, false
	}
	return payload, b[headerSize+n:], true
}

func (l *Log) openLast(flags int) error {
	last := l.files[len(l.files)-1]
	f, err := os.OpenFile(l.path(last.first), flags, 0o600)
	if err != nil {
		return fmt.Errorf("open wal file: %w", err)
	}
	if _, err := f.Seek(last.size, io.SeekStart); err != nil {
		return errors.Join(fmt.Errorf("open wal file: %w", err), f.Close())
	}
	l.out = f
	return nil
}

// Append writes lines and where they leave the output, and returns once both
// are on disk. The lines continue the log.
func (l *Log) Append(lines []nimbus.Line, cp Checkpoint) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.room(); err != nil {
		return err
	}
	l.buf = l.buf[:0]
	for _, line := range lines {
		l.buf = appendRecord(l.buf, kindLine, func(b []byte) []byte { return logs.AppendRecord(b, line) })
	}
	var err error
	if l.buf, err = appendCheckpoint(l.buf, cp); err != nil {
		return err
	}
	if err := l.write(); err != nil {
		return errors.Join(err, l.cutBack())
	}
	l.files[len(l.files)-1].size += int64(len(l.buf))
	if len(lines) > 0 {
		l.last = lines[len(lines)-1].Seq
	}
	l.checkpoint = cp
	l.notify()
	return nil
}

// write brings the buffer to disk.
func (l *Log) write() error {
	if _, err := l.out.Write(l.buf); err != nil {
		return fmt.Errorf("append to wal: %w", err)
	}
	if err := l.out.Sync(); err != nil {
		return fmt.Errorf("sync wal: %w", err)
	}
	return nil
}

// cutBack takes away what a failed write left: nothing after it would be found.
func (l *Log) cutBack() error {
	size := l.files[len(l.files)-1].size
	if err := l.out.Truncate(size); err != nil {
		return fmt.Errorf("cut failed append: %w", err)
	}
	if _, err := l.out.Seek(size, io.SeekStart); err != nil {
		return fmt.Errorf("cut failed append: %w", err)
	}
	return nil
}

// room makes sure that there is a file with room to write to.
func (l *Log) room() error {
	if l.out != nil && l.files[len(l.files)-1].size < fileSize {
		return nil
	}
	if l.out != nil {
		err := l.out.Close()
		l.out = nil
		if err != nil {
			return fmt.Errorf("close wal file: %w", err)
		}
	}
	// A file without lines (checkpoints alone) can't be followed by one of the
	// same name: it begins anew with the last of them, for all others are past. So
	// a line that is long in coming does not fill the log.
	if n := len(l.files); n > 0 && l.files[n-1].first == l.last+1 {
		return l.beginAnew(&l.files[n-1])
	}
	l.files = append(l.files, file{first: l.last + 1})
	if err := l.openLast(os.O_CREATE | os.O_EXCL | os.O_RDWR); err != nil {
		return err
	}
	return syncDir(l.dir)
}

// beginAnew leaves the newest checkpoint of a file that has no lines.
func (l *Log) beginAnew(f *file) error {
	raw, err := appendCheckpoint(nil, l.checkpoint)
	if err != nil {
		return err
	}
	if err := wholefile.WriteDurable(l.path(f.first), raw, 0o600); err != nil {
		return fmt.Errorf("begin wal file anew: %w", err)
	}
	f.size = int64(len(raw))
	l.cursor = cursor{}
	if err := l.openLast(os.O_RDWR); err != nil {
		return err
	}
	return syncDir(l.dir)
}

func appendCheckpoint(b []byte, cp Checkpoint) ([]byte, error) {
	state, err := json.Marshal(cp)
	if err != nil {
		return b, fmt.Errorf("encode checkpoint: %w", err)
	}
	return appendRecord(b, kindCheckpoint, func(b []byte) []byte { return append(b, state...) }), nil
}

func appendRecord(b []byte, kind byte, payload func([]byte) []byte) []byte {
	at := len(b)
	b = append(b, make([]byte, headerSize)...)
	b = payload(append(b, kind))
	body := b[at+headerSize:]
	binary.LittleEndian.PutUint32(b[at:], uint32(len(body)))
	binary.LittleEndian.PutUint32(b[at+4:], crc32.ChecksumIEEE(body))
	return b
}

// notify wakes whoever waits on Changed. Called with mu held.
func (l *Log) notify() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// Changed is closed at the next Append or Acknowledge.
func (l *Log) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// Full tells whether so much is unacknowledged that the writer must wait.
func (l *Log) Full() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	var size int64
	for _, f := range l.files {
		size += f.size
	}
	return size > l.limit
}

// Last is the newest line and the state after it.
func (l *Log) Last() (int64, Checkpoint) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last, l.checkpoint
}

// Acked is the highest acknowledged line that this process knows of.
func (l *Log) Acked() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked
}

// Acknowledge frees the lines up to seq.
func (l *Log) Acknowledge(seq int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked = max(l.acked, min(seq, l.last))
	defer l.notify()
	for len(l.files) > 1 && l.files[1].first <= l.acked+1 {
		if err := os.Remove(l.path(l.files[0].first)); err != nil {
			return fmt.Errorf("free wal: %w", err)
		}
		l.files = l.files[1:]
	}
	return nil
}

// Read returns lines from number from on, up to about maxBytes of memory but at
// least one if there is one.
func (l *Log) Read(from int64, maxBytes int) ([]nimbus.Line, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []nimbus.Line
	for size := 0; from <= l.last && size < maxBytes; {
		at, end := l.seek(from)
		page, next, err := l.readFile(at, end, from, maxBytes-size)
		if err != nil {
			return nil, err
		}
		if len(page) == 0 {
			return nil, fmt.Errorf("read wal: line %d is missing", from)
		}
		for _, line := range page {
			size += len(line.Text) + lineOverhead
		}
		out = append(out, page...)
		from, l.cursor = page[len(page)-1].Seq+1, next
	}
	return out, nil
}

// seek finds where to look for a line, and the end of that file.
func (l *Log) seek(from int64) (at cursor, end int64) {
	i := len(l.files) - 1
	for i > 0 && l.files[i].first > from {
		i--
	}
	at = cursor{file: l.files[i].first, next: l.files[i].first}
	if l.cursor.file == at.file && l.cursor.next <= from {
		at = l.cursor
	}
	return at, l.files[i].size
}

// readFile reads lines from one file.
func (l *Log) readFile(at cursor, end, from int64, maxBytes int) (out []nimbus.Line, next cursor, err error) {
	f, err := os.Open(l.path(at.file))
	if err != nil {
		return nil, at, fmt.Errorf("read wal: %w", err)
	}
	defer f.Close()
	window := min(end-at.offset, int64(maxBytes)+2*maxRecord)
	raw := make([]byte, max(0, min(window, math.MaxInt32)))
	if _, err := f.ReadAt(raw, at.offset); err != nil {
		return nil, at, fmt.Errorf("read wal: %w", err)
	}
	for size := 0; size < maxBytes; {
		payload, rest, ok := nextRecord(raw)
		if !ok {
			break
		}
		at.offset += int64(len(raw) - len(rest))
		raw = rest
		if payload[0] != kindLine {
			continue
		}
		line, _, err := logs.DecodeRecord(payload[1:])
		if err != nil {
			return nil, at, fmt.Errorf("read wal: %w", err)
		}
		at.next = line.Seq + 1
		if line.Seq >= from {
			out = append(out, line)
			size += len(line.Text) + lineOverhead
		}
	}
	return out, at, nil
}

// Close closes the log; nothing is removed.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.out == nil {
		return nil
	}
	err := l.out.Close()
	l.out = nil
	if err != nil {
		return fmt.Errorf("close wal: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync wal folder: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync wal folder: %w", err)
	}
	return nil
}
