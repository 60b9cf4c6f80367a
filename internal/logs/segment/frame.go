package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
)

// A frame is a header and a payload, little endian:
//
//	magic 4, CRC of what follows of the header u32, CRC of the payload u32,
//	meta, text u32 (packed), meta, text u32 (unpacked), rows u32, first line u64,
//	earliest, latest i64 (µs), lines of level debug, info, warn, error u32
//	zstd(meta), zstd(text)
//
// The text is that of its lines, each ended by \n, so that it can be searched
// without the rest. The meta of a line is varint time (µs, after the line before),
// uvarint step, byte stream, level and flags, uvarint group and length where the
// flags say so. The headers are the log's index: it cannot say anything else than
// the frames.
//
// Frames of before (magic NLF1) are a header of 28 bytes and zstd(records), see
// logs.AppendRecord. Both kinds may be in one file.
const (
	headerSize    = 72
	oldHeaderSize = 28
	// frameText is how much text makes a frame.
	frameText = 256 << 10
	// lineOverhead is what a line counts beside its text.
	lineOverhead = 32
	// maxFrame bounds a frame, packed or not.
	maxFrame = 2 * maxAppend
)

const (
	magic    = "NLF2"
	oldMagic = "NLF1"
)

// Bits of a line's byte: stream, level, flags.
const (
	levelShift = 3
	streamMask = 1<<levelShift - 1
	hasLength  = 1 << 6 // its text has a \n in it
	hasGroup   = 1 << 7
)

// streams numbers the streams in frames; the order is for ever.
var streams = [...]nimbus.Stream{nimbus.StreamStdout, nimbus.StreamStderr, nimbus.StreamSystem, nimbus.StreamStep} //nolint:gochecknoglobals // a constant

var errDamaged = errors.New("the log is damaged")

// frame is what a header says, and where it lies.
type frame struct {
	first            int64
	rows             int
	earliest, latest int64
	levels           [logs.LevelError + 1]int64 // all of no level where that isn't known
	old              bool
	offset           int64
	meta, text       int // packed
	rawMeta, rawText int // unpacked; of an old one the records
	crc              uint32
}

func (f frame) last() int64 { return f.first + int64(f.rows) - 1 }

func (f frame) header() int {
	if f.old {
		return oldHeaderSize
	}
	return headerSize
}

func (f frame) end() int64 { return f.offset + int64(f.header()+f.meta+f.text) }

// may tells whether a frame may have lines of at least a level in a time.
func (f frame) may(m *logs.Matcher) bool {
	if f.old {
		return true
	}
	q := m.Query
	if !q.Since.IsZero() && f.latest < q.Since.UnixMicro() || !q.Until.IsZero() && f.earliest >= q.Until.UnixMicro() {
		return false
	}
	for l := q.Level; l <= logs.LevelError; l++ {
		if f.levels[l] > 0 {
			return true
		}
	}
	return false
}

// parseHeader reads the header that b begins with. ok is false if none is there.
func parseHeader(b []byte, offset int64) (f frame, ok bool) {
	le := binary.LittleEndian
	switch {
	case len(b) >= headerSize && string(b[:4]) == magic:
		if crc32.ChecksumIEEE(b[8:headerSize]) != le.Uint32(b[4:]) {
			return f, false
		}
		f = frame{
			crc: le.Uint32(b[8:]), meta: int(le.Uint32(b[12:])), text: int(le.Uint32(b[16:])), rawMeta: int(le.Uint32(b[20:])), rawText: int(le.Uint32(b[24:])),
			rows: int(le.Uint32(b[28:])), first: int64(le.Uint64(b[32:])), earliest: int64(le.Uint64(b[40:])), latest: int64(le.Uint64(b[48:])), offset: offset,
		}
		f.levels[logs.LevelNone] = int64(f.rows)
		for l := logs.LevelDebug; l <= logs.LevelError; l++ {
			n := int64(le.Uint32(b[56+4*(l-1):]))
			f.levels[l] = n
			f.levels[logs.LevelNone] -= n
		}
	case len(b) >= oldHeaderSize && string(b[:4]) == oldMagic:
		f = frame{
			old: true, rows: int(le.Uint32(b[4:])), first: int64(le.Uint64(b[8:])), text: int(le.Uint32(b[16:])), rawText: int(le.Uint32(b[20:])),
			crc: le.Uint32(b[24:]), latest: math.MaxInt64, offset: offset,
		}
		f.levels[logs.LevelNone] = int64(f.rows)
	default:
		return f, false
	}
	sane := f.rows > 0 && f.first > 0 && f.first < math.MaxInt64-int64(f.rows) && f.meta <= maxFrame && f.text <= maxFrame && f.rawMeta <= maxFrame && f.rawText <= maxFrame
	return f, sane
}

// sound tells whether a frame's bytes are those that were written.
func (f frame) sound(whole []byte) bool {
	if len(whole) != f.header()+f.meta+f.text {
		return false
	}
	if f.old {
		return crc32.Update(crc32.ChecksumIEEE(whole[:24]), crc32.IEEETable, whole[oldHeaderSize:]) == f.crc
	}
	return crc32.ChecksumIEEE(whole[headerSize:]) == f.crc
}

// block is lines on their way into a frame. What is in its slices is never changed,
// only added to: who copied them may read on.
type block struct {
	first            int64
	rows             int
	meta, text       []byte
	at               int64 // of the last line, µs
	earliest, latest int64
	levels           [logs.LevelError + 1]int64
}

func (b *block) size() int { return len(b.meta) + len(b.text) }

// add adds a line, which follows the last one.
func (b *block) add(l nimbus.Line, level logs.Level) {
	at := l.At.UnixMicro()
	if b.rows == 0 {
		b.first, b.earliest, b.latest = l.Seq, at, at
	}
	b.meta = binary.AppendVarint(b.meta, at-b.at)
	b.meta = binary.AppendUvarint(b.meta, uint64(l.Step))
	bits := byte(max(0, slices.Index(streams[:], l.Stream))) | byte(level)<<levelShift
	if l.Group != 0 {
		bits |= hasGroup
	}
	split := strings.Contains(l.Text, "\n")
	if split {
		bits |= hasLength
	}
	b.meta = append(b.meta, bits)
	if l.Group != 0 {
		b.meta = binary.AppendUvarint(b.meta, uint64(l.Group))
	}
	if split {
		b.meta = binary.AppendUvarint(b.meta, uint64(len(l.Text)))
	}
	b.text = append(append(b.text, l.Text...), '\n')
	b.rows++
	b.at, b.earliest, b.latest = at, min(b.earliest, at), max(b.latest, at)
	b.levels[level]++
}

// pack makes the frame of a block.
func (s *Store) pack(b *block) ([]byte, frame) {
	out := make([]byte, headerSize, headerSize+b.size()/3)
	out = s.encoder.EncodeAll(b.meta, out)
	meta := len(out) - headerSize
	out = s.encoder.EncodeAll(b.text, out)
	le := binary.LittleEndian
	copy(out, magic)
	le.PutUint32(out[8:], crc32.ChecksumIEEE(out[headerSize:]))
	le.PutUint32(out[12:], uint32(meta))
	le.PutUint32(out[16:], uint32(len(out)-headerSize-meta))
	le.PutUint32(out[20:], uint32(len(b.meta)))
	le.PutUint32(out[24:], uint32(len(b.text)))
	le.PutUint32(out[28:], uint32(b.rows))
	le.PutUint64(out[32:], uint64(b.first))
	le.PutUint64(out[40:], uint64(b.earliest))
	le.PutUint64(out[48:], uint64(b.latest))
	for l := logs.LevelDebug; l <= logs.LevelError; l++ {
		le.PutUint32(out[56+4*(l-1):], uint32(b.levels[l]))
	}
	le.PutUint32(out[4:], crc32.ChecksumIEEE(out[8:headerSize]))
	f, _ := parseHeader(out, 0)
	return out, f
}

// row is a line and its level.
type row struct {
	nimbus.Line
	level logs.Level
}

// rows reads lines out of the unpacked parts of a frame, or of a block. Their texts
// are parts of text.
func readRows(first int64, n int, meta []byte, text string) ([]row, error) {
	out := make([]row, 0, n)
	at := int64(0)
	for i := range n {
		delta, k := binary.Varint(meta)
		if k <= 0 {
			return nil, errDamaged
		}
		meta = meta[k:]
		step, k := binary.Uvarint(meta)
		if k <= 0 || len(meta) == k {
			return nil, errDamaged
		}
		bits := meta[k]
		meta = meta[k+1:]
		var group, length uint64
		if bits&hasGroup != 0 {
			if group, k = binary.Uvarint(meta); k <= 0 {
				return nil, errDamaged
			}
			meta = meta[k:]
		}
		if bits&hasLength != 0 {
			if length, k = binary.Uvarint(meta); k <= 0 || length >= uint64(len(text)) {
				return nil, errDamaged
			}
			meta = meta[k:]
		} else if j := strings.IndexByte(text, '\n'); j >= 0 {
			length = uint64(j)
		} else {
			return nil, errDamaged
		}
		stream, level := int(bits&streamMask), logs.Level(bits>>levelShift&streamMask)
		if stream >= len(streams) || level > logs.LevelError {
			return nil, errDamaged
		}
		at += delta
		out = append(out, row{level: level, Line: nimbus.Line{
			Seq: first + int64(i), At: time.UnixMicro(at).UTC(), Stream: streams[stream], Step: int32(step), Group: int32(group), Text: text[:length],
		}})
		text = text[length+1:]
	}
	return out, nil
}

// oldRows reads the records of a frame of before.
func oldRows(raw []byte, n int) ([]row, error) {
	out := make([]row, 0, n)
	for len(raw) > 0 {
		line, rest, err := logs.DecodeRecord(raw)
		if err != nil {
			return nil, errors.Join(errDamaged, err)
		}
		out, raw = append(out, row{Line: line, level: logs.LevelOf(line.Text)}), rest
	}
	if len(out) != n {
		return nil, errDamaged
	}
	return out, nil
}

// rows reads and unpacks a frame.
func (s *Store) rows(in file, f frame) ([]row, error) {
	out, err := s.unpack(in, f)
	if err != nil {
		return nil, fmt.Errorf("read lines %d to %d of a log: %w", f.first, f.last(), err)
	}
	return out, nil
}

func (s *Store) unpack(in file, f frame) ([]row, error) {
	whole := make([]byte, f.header()+f.meta+f.text)
	switch _, err := in.ReadAt(whole, f.offset); {
	case errors.Is(err, syscall.EIO), errors.Is(err, io.EOF): // a bad sector, or a file that was cut off
		return nil, errors.Join(errDamaged, err)
	case err != nil:
		return nil, err
	}
	if !f.sound(whole) {
		return nil, errDamaged
	}
	packed := whole[f.header():]
	if f.old {
		raw, err := s.decoder.DecodeAll(packed, nil)
		if err != nil {
			return nil, errors.Join(errDamaged, err)
		}
		return oldRows(raw, f.rows)
	}
	meta, err := s.decoder.DecodeAll(packed[:f.meta], make([]byte, 0, f.rawMeta))
	if err != nil {
		return nil, errors.Join(errDamaged, err)
	}
	text, err := s.decoder.DecodeAll(packed[f.meta:], make([]byte, 0, f.rawText))
	if err != nil {
		return nil, errors.Join(errDamaged, err)
	}
	return readRows(f.first, f.rows, meta, string(text))
}
