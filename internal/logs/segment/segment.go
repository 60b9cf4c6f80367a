// Package segment is the embedded log store: one file per attempt, made of
// compressed frames, each synced before its lines are acknowledged.
//
// A frame is a header and a payload:
//
//	magic 4, rows u32, first u64, compressed u32, raw u32, CRC u32   little endian
//	zstd(records)                                                    see logs.AppendRecord
//
// The CRC covers header and payload. A frame that was torn by a crash can only
// be the last; it is cut off when the file is opened.
package segment

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
)

const (
	headerSize = 28
	// maxFrame bounds one frame, packed or not: an append is at most 4 MiB of text.
	maxFrame = 16 << 20
	// maxOpen is how many logs are kept open; more are closed, the oldest first.
	maxOpen = 256
	// zstdWindow keeps the memory of decoders small.
	zstdWindow = 512 << 10
)

var magic = [4]byte{'N', 'L', 'F', '1'}

// Store implements logs.Store on a directory.
type Store struct {
	dir      string
	maxBytes int64
	encoder  *zstd.Encoder
	decoder  *zstd.Decoder

	mu   sync.Mutex
	open map[nimbus.LogKey]*attempt
	tick int64
}

var _ logs.Store = (*Store)(nil)

// Open opens the store in dir. A log may grow to maxBytes of stored bytes.
func Open(dir string, maxBytes int64) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open log store: %w", err)
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(zstdWindow), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("open log store: %w", err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxFrame), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("open log store: %w", err)
	}
	return &Store{dir: dir, maxBytes: maxBytes, encoder: enc, decoder: dec, open: map[nimbus.LogKey]*attempt{}}, nil
}

// Close closes all files.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for key, a := range s.open {
		a.mu.Lock()
		errs = append(errs, a.close())
		a.mu.Unlock()
		delete(s.open, key)
	}
	s.decoder.Close()
	return errors.Join(append(errs, s.encoder.Close())...)
}

// path is the file of a log. Org and attempt become file names: both are
// checked, whoever made them.
func (s *Store) path(key nimbus.LogKey) (string, error) {
	if err := nimbus.CheckID(nimbus.PrefixOrg, key.OrgID); err != nil {
		return "", err
	}
	prefix := nimbus.PrefixAttempt
	if strings.HasPrefix(key.AttemptID, nimbus.PrefixShell) {
		prefix = nimbus.PrefixShell
	}
	if err := nimbus.CheckID(prefix, key.AttemptID); err != nil {
		return "", err
	}
	return filepath.Join(s.dir, key.OrgID, key.AttemptID+".log"), nil
}

// Append implements logs.Store.
func (s *Store) Append(_ context.Context, key nimbus.LogKey, lines []nimbus.Line) (int64, error) {
	a, err := s.acquire(key, true)
	if err != nil {
		return 0, err
	}
	defer a.mu.Unlock()
	for len(lines) > 0 && lines[0].Seq <= a.last {
		lines = lines[1:]
	}
	if len(lines) == 0 || lines[0].Seq != a.last+1 {
		return a.last, nil
	}
	if a.size > s.maxBytes {
		return a.last, nimbus.Errorf(nimbus.CodeTooLarge, "the log is larger than %d bytes", s.maxBytes)
	}
	var raw []byte
	for i, line := range lines {
		if line.Seq != lines[0].Seq+int64(i) {
			return a.last, nimbus.Errorf(nimbus.CodeInvalid, "line %d follows line %d", line.Seq, lines[0].Seq+int64(i)-1)
		}
		raw = logs.AppendRecord(raw, line)
	}
	if len(raw) > maxFrame {
		return a.last, nimbus.Errorf(nimbus.CodeTooLarge, "%d bytes of lines in one call, at most %d", len(raw), maxFrame)
	}
	err = a.append(s.encode(lines, raw), index{first: lines[0].Seq, rows: len(lines)})
	return a.last, err
}

func (s *Store) encode(lines []nimbus.Line, raw []byte) []byte {
	out := make([]byte, headerSize, headerSize+len(raw)/2)
	out = s.encoder.EncodeAll(raw, out)
	copy(out, magic[:])
	binary.LittleEndian.PutUint32(out[4:], uint32(len(lines)))
	binary.LittleEndian.PutUint64(out[8:], uint64(lines[0].Seq))
	binary.LittleEndian.PutUint32(out[16:], uint32(len(out)-headerSize))
	binary.LittleEndian.PutUint32(out[20:], uint32(len(raw)))
	binary.LittleEndian.PutUint32(out[24:], checksum(out))
	return out
}

// checksum covers a whole frame but the checksum itself.
func checksum(frame []byte) uint32 {
	return crc32.Update(crc32.ChecksumIEEE(frame[:24]), crc32.IEEETable, frame[headerSize:])
}

// Read implements logs.Store.
func (s *Store) Read(_ context.Context, key nimbus.LogKey, from int64, limit int) ([]nimbus.Line, error) {
	a, err := s.acquire(key, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer a.mu.Unlock()
	var out []nimbus.Line
	i := sort.Search(len(a.frames), func(i int) bool { return a.frames[i].first+int64(a.frames[i].rows) > from })
	for ; i < len(a.frames) && len(out) < limit; i++ {
		lines, err := s.decode(a, a.frames[i])
		if err != nil {
			return nil, err
		}
		skip := max(0, from-a.frames[i].first)
		lines = lines[min(int64(len(lines)), skip):]
		out = append(out, lines[:min(len(lines), limit-len(out))]...)
	}
	return out, nil
}

func (s *Store) decode(a *attempt, x index) ([]nimbus.Line, error) {
	frame := make([]byte, x.length)
	if _, err := a.file.ReadAt(frame, x.offset); err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	if binary.LittleEndian.Uint32(frame[24:]) != checksum(frame) {
		return nil, fmt.Errorf("read log: the frame of line %d is damaged", x.first)
	}
	raw, err := s.decoder.DecodeAll(frame[headerSize:], nil)
	if err != nil {
		return nil, fmt.Errorf("read log: the frame of line %d: %w", x.first, err)
	}
	out := make([]nimbus.Line, 0, x.rows)
	for len(raw) > 0 {
		var line nimbus.Line
		if line, raw, err = logs.DecodeRecord(raw); err != nil {
			return nil, fmt.Errorf("read log: %w", err)
		}
		out = append(out, line)
	}
	return out, nil
}

// Acked implements logs.Store.
func (s *Store) Acked(_ context.Context, key nimbus.LogKey) (int64, error) {
	a, err := s.acquire(key, false)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer a.mu.Unlock()
	return a.last, nil
}

// Delete implements logs.Store.
func (s *Store) Delete(_ context.Context, key nimbus.LogKey) error {
	path, err := s.path(key)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.open[key]; a != nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(s.open, key)
		if err := a.close(); err != nil {
			return err
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete log: %w", err)
	}
	return nil
}

// acquire returns an open log, locked. It is made when create says so, and is
// fs.ErrNotExist otherwise when there is none.
func (s *Store) acquire(key nimbus.LogKey, create bool) (*attempt, error) {
	path, err := s.path(key)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tick++
	a := s.open[key]
	if a == nil {
		if a, err = openAttempt(path, create); err != nil {
			return nil, err
		}
		s.evict()
		s.open[key] = a
	}
	a.used = s.tick
	a.mu.Lock()
	return a, nil
}

// evict closes the log that was not used for longest when too many are open.
func (s *Store) evict() {
	if len(s.open) < maxOpen {
		return
	}
	var oldest nimbus.LogKey
	for key, a := range s.open {
		if b := s.open[oldest]; b == nil || a.used < b.used {
			oldest = key
		}
	}
	a := s.open[oldest]
	a.mu.Lock()
	defer a.mu.Unlock()
	_ = a.close() // every frame is synced: nothing is lost
	delete(s.open, oldest)
}

// index is where a frame lies.
type index struct {
	first          int64
	rows           int
	offset, length int64
}

// attempt is one open log.
type attempt struct {
	used int64 // guarded by the store

	mu     sync.Mutex
	file   *os.File
	frames []index
	last   int64
	size   int64
}

func openAttempt(path string, create bool) (*attempt, error) {
	flags := os.O_RDWR
	if create {
		flags |= os.O_CREATE
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, fmt.Errorf("open log: %w", err)
		}
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	a := &attempt{file: f}
	if err := a.scan(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if a.size == 0 {
		if err := syncDir(filepath.Dir(path)); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return a, nil
}

// scan builds the index from the headers and cuts off a torn last frame.
func (a *attempt) scan() error {
	info, err := a.file.Stat()
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	var head [headerSize]byte
	for a.size+headerSize <= info.Size() {
		if _, err := a.file.ReadAt(head[:], a.size); err != nil {
			return fmt.Errorf("open log: %w", err)
		}
		x := index{
			first: int64(binary.LittleEndian.Uint64(head[8:])), rows: int(binary.LittleEndian.Uint32(head[4:])),
			offset: a.size, length: headerSize + int64(binary.LittleEndian.Uint32(head[16:])),
		}
		if !bytes.Equal(head[:4], magic[:]) || x.first != a.last+1 || x.rows == 0 || x.offset+x.length > info.Size() {
			break
		}
		// Only the last one can be torn; the others were synced before it.
		if x.offset+x.length == info.Size() && !a.sound(x) {
			break
		}
		a.add(x)
	}
	if a.size == info.Size() {
		return nil
	}
	if err := a.file.Truncate(a.size); err != nil {
		return fmt.Errorf("cut torn frame: %w", err)
	}
	return nil
}

func (a *attempt) sound(x index) bool {
	if x.length > maxFrame+headerSize {
		return false
	}
	frame := make([]byte, x.length)
	if _, err := a.file.ReadAt(frame, x.offset); err != nil {
		return false
	}
	return binary.LittleEndian.Uint32(frame[24:]) == checksum(frame)
}

func (a *attempt) add(x index) {
	a.frames = append(a.frames, x)
	a.last = x.first + int64(x.rows) - 1
	a.size = x.offset + x.length
}

// append writes one frame to disk. After a failure the file ends where it did.
func (a *attempt) append(frame []byte, x index) error {
	x.offset, x.length = a.size, int64(len(frame))
	_, err := a.file.WriteAt(frame, a.size)
	if err == nil {
		err = a.file.Sync()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("append to log: %w", err), a.file.Truncate(a.size))
	}
	a.add(x)
	return nil
}

func (a *attempt) close() error {
	if err := a.file.Close(); err != nil {
		return fmt.Errorf("close log: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync log folder: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("sync log folder: %w", err)
	}
	return nil
}
