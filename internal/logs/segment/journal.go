package segment

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
)

// A file of the journal begins with journalMagic; then records:
//
//	length, CRC u32, little endian; of what follows
//	kind byte, varint time (µs), uvarint length and org, likewise the attempt
//	lines, see logs.AppendRecord
//
// Where a record is torn or damaged its file ends: what was synced is before it. A file
// that can't be read has no end: that is an error.
const (
	journalSize  = 64 << 20 // a file grows to
	journalMagic = "NIMBLJ1\n"
	recordHead   = 8
	maxRecord    = 2 * maxAppend
	// maxCommit is how much waits for the next sync; who comes then waits for it.
	maxCommit = 16 << 20
	stateFile = "state"
)

// Kinds of records.
const (
	kindLines  = 'L'
	kindDelete = 'D'
)

// record makes a record.
func record(kind byte, key nimbus.LogKey, lines []nimbus.Line) []byte {
	size := recordHead + 128
	for _, l := range lines {
		size += len(l.Text) + 24
	}
	b := make([]byte, recordHead, size)
	b = append(b, kind)
	b = binary.AppendVarint(b, time.Now().UnixMicro())
	for _, id := range []string{key.OrgID, key.AttemptID} {
		b = binary.AppendUvarint(b, uint64(len(id)))
		b = append(b, id...)
	}
	for _, l := range lines {
		b = logs.AppendRecord(b, l)
	}
	binary.LittleEndian.PutUint32(b, uint32(len(b)-recordHead))
	binary.LittleEndian.PutUint32(b[4:], crc32.ChecksumIEEE(b[recordHead:]))
	return b
}

// entry is a record that was read.
type entry struct {
	kind  byte
	at    time.Time
	key   nimbus.LogKey
	lines []byte // encoded
	end   int64  // where the next one begins
}

func (e entry) decode() (out []nimbus.Line, err error) {
	for rest := e.lines; len(rest) > 0; {
		var l nimbus.Line
		if l, rest, err = logs.DecodeRecord(rest); err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	return out, nil
}

func parseRecord(b []byte) (e entry, ok bool) {
	if len(b) < 2 {
		return e, false
	}
	e.kind = b[0]
	at, n := binary.Varint(b[1:])
	if n <= 0 {
		return e, false
	}
	e.at = time.UnixMicro(at)
	b = b[1+n:]
	for _, id := range []*string{&e.key.OrgID, &e.key.AttemptID} {
		length, n := binary.Uvarint(b)
		if n <= 0 || length > uint64(len(b)-n) {
			return e, false
		}
		*id, b = string(b[n:n+int(length)]), b[n+int(length):]
	}
	e.lines = b
	return e, (e.kind == kindLines || e.kind == kindDelete) && checkKey(e.key) == nil
}

// state is what the journal remembers beside its files.
type state struct {
	// Sealed is the last file whose lines are all in synced frames.
	Sealed int64 `json:"sealed"`
	// Shipped is up to where a second store has the lines, Offered up to where the
	// batch goes that it was given next.
	Shipped position `json:"shipped"`
	Offered position `json:"offered"`
}

// position is a place in the journal.
type position struct {
	File   int64 `json:"file"`
	Offset int64 `json:"offset"`
}

func (p position) before(q position) bool {
	return p.File < q.File || p.File == q.File && p.Offset < q.Offset
}

// part is a file of the journal.
type part struct {
	number, size int64
}

// commit is the records that share a sync.
type commit struct {
	buf    []byte
	done   bool
	number int64
	err    error
}

// journal is the one log of all.
type journal struct {
	disk disk
	dir  string
	most int64

	// turn is held by whoever writes. The records of all who wait for it are written
	// and synced with the one's who gets it.
	turn sync.Mutex
	out  file // guarded by turn; nil: the next one begins

	mu    sync.Mutex
	next  *commit
	begun *sync.Cond // there is a next one
	parts []part     // in order; the last is written to
	state state
}

func openJournal(d disk, dir string, most int64) (*journal, error) {
	j := &journal{disk: d, dir: dir, most: most, next: &commit{}}
	j.begun = sync.NewCond(&j.mu)
	names, err := d.names(dir)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		number, err := strconv.ParseInt(name, 10, 64)
		if err != nil || number < 1 {
			continue
		}
		size, err := j.measure(number)
		if err != nil {
			return nil, err
		}
		j.parts = append(j.parts, part{number: number, size: size})
	}
	slices.SortFunc(j.parts, func(a, b part) int { return cmp.Compare(a.number, b.number) })
	return j, j.readState()
}

func (j *journal) measure(number int64) (int64, error) {
	in, err := j.disk.openFile(j.path(number), os.O_RDONLY)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (j *journal) path(number int64) string {
	return filepath.Join(j.dir, fmt.Sprintf("%010d", number))
}

func (j *journal) readState() error {
	in, err := j.disk.openFile(filepath.Join(j.dir, stateFile), os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close()
	if err := json.NewDecoder(io.NewSectionReader(in, 0, 4<<10)).Decode(&j.state); err != nil {
		return fmt.Errorf("read the state of the journal: %w", err)
	}
	return nil
}

// change changes the state, on disk when it returns.
func (j *journal) change(edit func(*state)) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	changed := j.state
	edit(&changed)
	if changed == j.state {
		return nil
	}
	content, err := json.Marshal(changed)
	if err == nil {
		err = j.disk.replace(filepath.Join(j.dir, stateFile), content)
	}
	if err != nil {
		return fmt.Errorf("keep the state of the journal: %w", err)
	}
	j.state = changed
	return nil
}

// number is the file that is written to.
func (j *journal) number() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return max(j.state.Sealed, j.lastNumber())
}

func (j *journal) lastNumber() int64 {
	if len(j.parts) == 0 {
		return 0
	}
	return j.parts[len(j.parts)-1].number
}

// append writes a record and returns, once it is synced, the file that has it.
func (j *journal) append(record []byte) (number int64, err error) {
	c := j.join(record)
	j.turn.Lock()
	defer j.turn.Unlock()
	if !c.done {
		j.mu.Lock()
		j.next = &commit{}
		j.begun.Broadcast()
		j.mu.Unlock()
		c.number, c.err = j.write(c.buf)
		c.done, c.buf = true, nil
	}
	return c.number, c.err
}

// join adds a record to those that the next sync is for. Where there are too many
// bytes of them it waits for the one after.
func (j *journal) join(record []byte) *commit {
	j.mu.Lock()
	defer j.mu.Unlock()
	for len(j.next.buf) > 0 && len(j.next.buf)+len(record) > maxCommit {
		j.begun.Wait() // whoever is in it writes it
	}
	j.next.buf = append(j.next.buf, record...)
	return j.next
}

// write brings records to disk. After a failure the next file begins: what this one
// has from there on nobody counts on. Called with turn held.
func (j *journal) write(records []byte) (number int64, err error) {
	if j.out == nil || j.lastSize() >= j.most {
		if err := j.begin(); err != nil {
			return 0, err
		}
	}
	j.mu.Lock()
	last := &j.parts[len(j.parts)-1]
	number, size := last.number, last.size
	j.mu.Unlock()
	if _, err = j.out.WriteAt(records, size); err == nil {
		err = j.out.Sync()
	}
	if err != nil {
		err = errors.Join(fmt.Errorf("write the journal: %w", err), j.out.Truncate(size), j.out.Close())
		j.out = nil
		return 0, err
	}
	j.mu.Lock()
	j.parts[len(j.parts)-1].size = size + int64(len(records))
	j.mu.Unlock()
	return number, nil
}

func (j *journal) lastSize() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.parts[len(j.parts)-1].size
}

// begin begins a file. Called with turn held.
func (j *journal) begin() error {
	number := j.number() + 1
	if j.out != nil {
		if err := j.out.Close(); err != nil {
			return fmt.Errorf("close the journal: %w", err)
		}
		j.out = nil
	}
	// What an attempt that failed left there nobody counts on.
	out, err := j.disk.openFile(j.path(number), os.O_CREATE|os.O_TRUNC|os.O_RDWR)
	if err != nil {
		return fmt.Errorf("begin a file of the journal: %w", err)
	}
	if _, err = out.WriteAt([]byte(journalMagic), 0); err == nil {
		err = j.disk.syncDir(j.dir)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("begin a file of the journal: %w", err), out.Close(), j.disk.remove(j.path(number)))
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.out, j.parts = out, append(j.parts, part{number: number, size: int64(len(journalMagic))})
	return nil
}

// read hands the records of a file to each, from an offset on and up to a size. It
// returns where the sound ones end.
func (j *journal) read(number, from, size int64, each func(entry) (more bool, err error)) (end int64, err error) {
	in, err := j.disk.openFile(j.path(number), os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return from, nil
	}
	if err != nil {
		return from, err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return from, err
	}
	size = min(size, info.Size())
	from = max(from, int64(len(journalMagic)))
	head := make([]byte, len(journalMagic))
	if _, err := in.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return from, err
	}
	if string(head) != journalMagic {
		return from, nil // it was begun and no more
	}
	r := bufio.NewReaderSize(io.NewSectionReader(in, from, max(0, size-from)), 1<<20)
	for {
		payload, ok, err := nextRecord(r)
		if err != nil || !ok {
			return from, err
		}
		e, ok := parseRecord(payload)
		if !ok {
			return from, nil
		}
		from += recordHead + int64(len(payload))
		e.end = from
		if more, err := each(e); err != nil || !more {
			return from, err
		}
	}
}

// nextRecord reads one sound record; ok is false where there is none.
func nextRecord(r io.Reader) (payload []byte, ok bool, err error) {
	var head [recordHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, false, unlessEnd(err)
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n == 0 || n > maxRecord {
		return nil, false, nil
	}
	payload = make([]byte, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		return nil, false, unlessEnd(err)
	}
	return payload, crc32.ChecksumIEEE(payload) == binary.LittleEndian.Uint32(head[4:]), nil
}

// unlessEnd keeps a disk that can't read from being taken for the end of a file:
// lines that were acknowledged would be gone.
func unlessEnd(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

// list returns the files that are there.
func (j *journal) list() []part {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.parts)
}

// measured says where the sound records of a file end.
func (j *journal) measured(number, size int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := range j.parts {
		if j.parts[i].number == number {
			j.parts[i].size = size
		}
	}
}

// current is what the state is.
func (j *journal) current() state {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.state
}

// drop removes the files before a number.
func (j *journal) drop(before int64) error {
	for {
		j.mu.Lock()
		if len(j.parts) == 0 || j.parts[0].number >= before {
			j.mu.Unlock()
			return nil
		}
		number := j.parts[0].number
		j.mu.Unlock()
		if err := j.disk.remove(j.path(number)); err != nil {
			return fmt.Errorf("remove a file of the journal: %w", err)
		}
		j.mu.Lock()
		j.parts = j.parts[1:]
		j.mu.Unlock()
	}
}

// close closes the file that is written to. An append after it begins the next one.
func (j *journal) close() error {
	j.turn.Lock()
	defer j.turn.Unlock()
	if j.out == nil {
		return nil
	}
	err := j.out.Close()
	j.out = nil
	return err
}
