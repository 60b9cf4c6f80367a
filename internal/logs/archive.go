package logs

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// An archive is the logs of an org: archiveMagic, the org, then chunks of lines of one
// attempt after the other, and an empty chunk as its end, so that one that was cut off
// is known as such. A chunk is the attempt, length, CRC, and lines (see AppendRecord).
// Ids are a byte of length and the id; numbers are u32, little endian.
const (
	archiveMagic = "NIMBLA1\n"
	archiveLines = 1000
	// maxChunk bounds a chunk: lines of the largest size.
	maxChunk = archiveLines * (nimbus.MaxLineBytes + 64)
	// listPage is how many attempts are listed at once.
	listPage = 200
	// giveUpTimeout bounds the removal of what was read in part: who sent it may be gone.
	giveUpTimeout = time.Minute
)

// Archived is what was written to, or read from, an archive.
type Archived struct {
	Attempts int   `json:"attempts"`
	Lines    int64 `json:"lines"`
	// Lost lines could not be read when the archive was made: it says which, in their place.
	Lost int64 `json:"lost,omitempty"`
	// Skipped attempts have a log already, which is not shorter: it was left as it is.
	Skipped int `json:"skipped,omitempty"`
	// Damaged attempts could not be read as a whole: the archive has what could be, and
	// says where something is missing.
	Damaged int `json:"damaged,omitempty"`
}

// Export writes all logs of an org. Of one that is damaged it tells log, and goes on
// behind what can't be read.
func Export(ctx context.Context, store interface {
	Reader
	Looker
}, orgID string, w io.Writer, log *slog.Logger,
) (a Archived, err error) {
	out := bufio.NewWriterSize(w, 256<<10)
	if _, err := out.WriteString(archiveMagic); err != nil {
		return a, err
	}
	writeID(out, orgID)
	for after := ""; ; {
		ids, err := store.List(ctx, orgID, after, listPage)
		if err != nil {
			return a, err
		}
		if len(ids) == 0 {
			break
		}
		for _, id := range ids {
			x := logExport{key: nimbus.LogKey{OrgID: orgID, AttemptID: id}, out: out}
			if err := x.write(ctx, store); err != nil {
				return a, err
			}
			if x.damage != nil {
				a.Damaged++
				log.ErrorContext(ctx, "a log is exported that is damaged", "attempt", id, "lines", x.lines, "lost", x.lost, "error", x.damage)
			}
			a.Attempts++
			a.Lines, a.Lost = a.Lines+x.lines, a.Lost+x.lost
			after = id
		}
	}
	writeChunk(out, "", nil)
	return a, out.Flush()
}

// logExport writes one log.
type logExport struct {
	key         nimbus.LogKey
	out         *bufio.Writer
	last        nimbus.Line // that was written
	lines, lost int64
	damage      error // the first
}

func (x *logExport) write(ctx context.Context, store Reader) error {
	x.last.At, _ = nimbus.IDTime(nimbus.PrefixAttempt, x.key.AttemptID)
	for {
		lines, damaged, err := ReadOn(ctx, store, x.key, x.last.Seq+1, archiveLines)
		switch {
		case Aborts(ctx, err):
			return err
		case err != nil: // nothing is known of what lies behind it
			x.damage = cmp.Or(x.damage, err)
			return nil
		case damaged != nil:
			x.damage = cmp.Or[error](x.damage, damaged)
			if damaged.Last-x.last.Seq > maxLost {
				return nil
			}
			x.lost += damaged.Last - x.last.Seq
			err = x.lose(damaged.Last)
		case len(lines) == 0:
			return nil
		default:
			x.lines += int64(len(lines))
			err = x.chunk(lines)
		}
		if err != nil {
			return err
		}
	}
}

// lose writes that the lines up to one are lost.
func (x *logExport) lose(last int64) error {
	for first := x.last.Seq + 1; x.last.Seq < last; {
		lines, behind := make([]nimbus.Line, 0, archiveLines), x.last
		for len(lines) < archiveLines && behind.Seq < last {
			behind = lostLine(first, last, behind)
			lines = append(lines, behind)
		}
		if err := x.chunk(lines); err != nil {
			return err
		}
	}
	return nil
}

func (x *logExport) chunk(lines []nimbus.Line) error {
	var b []byte
	for _, l := range lines {
		b = AppendRecord(b, l)
	}
	x.last = lines[len(lines)-1]
	writeChunk(x.out, x.key.AttemptID, b)
	return x.out.Flush() // a writer keeps its first error
}

func writeID(out *bufio.Writer, id string) {
	_ = out.WriteByte(byte(len(id)))
	_, _ = out.WriteString(id)
}

func writeChunk(out *bufio.Writer, attempt string, lines []byte) {
	writeID(out, attempt)
	var head [8]byte
	binary.LittleEndian.PutUint32(head[:], uint32(len(lines)))
	binary.LittleEndian.PutUint32(head[4:], crc32.ChecksumIEEE(lines))
	_, _ = out.Write(head[:])
	_, _ = out.Write(lines)
}

// Import reads an archive of an org into a store. What the store has stays as it is: a
// log that ends before the archive's does, as after an import that was killed, goes
// on where it ends. allowed is asked before anything is written of an attempt. What this
// import began and did not read to its end is not kept. One import of an org at a time: two
// can't tell their lines apart. Codes: invalid for what is no archive, or one of another org.
func Import(ctx context.Context, store Store, orgID string, r io.Reader, allowed func(ctx context.Context, attemptID string) error) (a Archived, err error) {
	in := &importer{store: store, org: orgID, in: bufio.NewReaderSize(r, 256<<10), allowed: allowed}
	if err := in.begin(); err != nil {
		return a, err
	}
	for {
		attempt, lines, err := in.chunk()
		if err == nil && attempt == "" {
			return in.done, in.end()
		}
		if err == nil {
			err = in.take(ctx, attempt, lines)
		}
		if err != nil {
			gaveUp := in.giveUp(ctx)
			return in.done, errors.Join(in.told(err), gaveUp)
		}
	}
}

// importer is one import.
type importer struct {
	store   Store
	org     string
	in      *bufio.Reader
	allowed func(context.Context, string) error
	done    Archived
	attempt string // that is being read
	had     int64  // how many lines of it were here
	fits    bool   // the last of them is the archive's
	begun   bool   // this import may write to it
	skip    bool
	last    int64 // its last line
	lost    int64 // how many of those that this import wrote stand for ones that are lost
	tried   int64 // the last line that was to be written: it may have been, although an error says no
}

var errNoArchive = nimbus.Errorf(nimbus.CodeInvalid, "this is no whole archive of logs") //nolint:gochecknoglobals // a constant

func (i *importer) begin() error {
	head := make([]byte, len(archiveMagic))
	if _, err := io.ReadFull(i.in, head); err != nil || string(head) != archiveMagic {
		return errNoArchive
	}
	org, err := i.id()
	if err != nil {
		return err
	}
	if org != i.org {
		return nimbus.Errorf(nimbus.CodeInvalid, "this is an archive of another org's logs (%.40q)", org)
	}
	return nil
}

func (i *importer) id() (string, error) {
	n, err := i.in.ReadByte()
	if err != nil {
		return "", errNoArchive
	}
	id := make([]byte, n)
	if _, err := io.ReadFull(i.in, id); err != nil {
		return "", errNoArchive
	}
	return string(id), nil
}

func (i *importer) chunk() (attempt string, lines []nimbus.Line, err error) {
	if attempt, err = i.id(); err != nil {
		return "", nil, err
	}
	var head [8]byte
	if _, err := io.ReadFull(i.in, head[:]); err != nil {
		return "", nil, errNoArchive
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n > maxChunk || attempt != "" && nimbus.CheckID(nimbus.PrefixAttempt, attempt) != nil {
		return "", nil, errNoArchive
	}
	raw := make([]byte, n)
	if _, err := io.ReadFull(i.in, raw); err != nil || crc32.ChecksumIEEE(raw) != binary.LittleEndian.Uint32(head[4:]) {
		return "", nil, errNoArchive
	}
	for len(raw) > 0 {
		var l nimbus.Line
		if l, raw, err = DecodeRecord(raw); err != nil || len(l.Text) > nimbus.MaxLineBytes {
			return "", nil, errNoArchive
		}
		lines = append(lines, l)
	}
	return attempt, lines, nil
}

func (i *importer) take(ctx context.Context, attempt string, lines []nimbus.Line) error {
	key := nimbus.LogKey{OrgID: i.org, AttemptID: attempt}
	if attempt != i.attempt {
		if err := i.next(ctx, key); err != nil {
			return err
		}
	}
	lines, err := i.beyond(ctx, key, lines)
	if err != nil || len(lines) == 0 {
		return err
	}
	// An append is bounded: a chunk of long lines is several.
	for len(lines) > 0 {
		n, size := 0, 0
		for n < len(lines) && size < 1<<20 {
			size += len(lines[n].Text)
			n++
		}
		i.tried = lines[n-1].Seq
		acked, err := i.store.Append(ctx, key, lines[:n])
		if err != nil {
			return err
		}
		if acked != lines[n-1].Seq || lines[0].Seq != i.last+1 {
			return nimbus.Errorf(nimbus.CodeConflict, "the log of %s was written by somebody else meanwhile", attempt)
		}
		i.count(lines[:n])
		lines = lines[n:]
	}
	return nil
}

// count counts lines that are here now.
func (i *importer) count(lines []nimbus.Line) {
	for _, l := range lines {
		if _, _, lost := lostBy(l); lost {
			i.lost++
			i.done.Lost++
		} else {
			i.done.Lines++
		}
		i.last = l.Seq
	}
}

// next begins with an attempt. The one before was read to its end: from here on it is
// not given up.
func (i *importer) next(ctx context.Context, key nimbus.LogKey) error {
	i.attempt, i.fits, i.begun, i.skip, i.tried, i.lost = key.AttemptID, false, false, false, 0, 0
	var err error
	if i.had, err = i.store.Acked(ctx, key); err != nil {
		return err
	}
	i.last = i.had
	if i.had > 0 {
		i.done.Skipped++
		return nil
	}
	if err := i.allowed(ctx, key.AttemptID); err != nil {
		return err
	}
	i.begun = true
	i.done.Attempts++
	return nil
}

// beyond are those lines that the store lacks. Of a log that was here there are none,
// unless it ends with a line of the archive, and nobody else may go on with it.
func (i *importer) beyond(ctx context.Context, key nimbus.LogKey, lines []nimbus.Line) ([]nimbus.Line, error) {
	for len(lines) > 0 && lines[0].Seq <= i.had {
		if lines[0].Seq == i.had {
			here, err := i.store.Read(ctx, key, i.had, 1)
			var damaged *DamagedError
			if err != nil && !errors.As(err, &damaged) { // one that is damaged is nobody's line
				return nil, fmt.Errorf("read where a log ends that is here: %w", err)
			}
			i.fits = len(here) == 1 && here[0].Text == lines[0].Text && here[0].Stream == lines[0].Stream
		}
		lines = lines[1:]
	}
	if len(lines) > 0 && !i.begun && !i.skip {
		if err := i.goOn(ctx); err != nil {
			return nil, err
		}
	}
	if i.skip {
		return nil, nil
	}
	return lines, nil
}

// goOn decides whether a log that was here gets the lines of the archive behind it.
func (i *importer) goOn(ctx context.Context) error {
	i.skip = true
	if !i.fits {
		return nil
	}
	err := i.allowed(ctx, i.attempt)
	if nimbus.ErrorCode(err) == nimbus.CodeConflict {
		return nil // who writes it has these lines, too
	}
	if err != nil {
		return err
	}
	i.skip, i.begun = false, true
	i.done.Skipped--
	i.done.Attempts++
	return nil
}

// end looks that nothing follows: it would be lost without a word.
func (i *importer) end() error {
	if _, err := i.in.ReadByte(); !errors.Is(err, io.EOF) {
		return nimbus.Errorf(nimbus.CodeInvalid, "something follows the archive of logs: %d logs with %d lines that came before are back", i.done.Attempts, i.done.Lines)
	}
	return nil
}

// told is the error of an archive that is not whole, with what came of it.
func (i *importer) told(err error) error {
	if !errors.Is(err, errNoArchive) || i.done.Attempts == 0 {
		return err
	}
	return nimbus.Errorf(nimbus.CodeInvalid, "this is no whole archive of logs: %d logs with %d lines that came before its fault are back", i.done.Attempts, i.done.Lines)
}

// giveUp removes what was read of an attempt that is not whole: a log that has what
// this import wrote, and nothing else. One that was here before, or that somebody else
// wrote to, stays.
func (i *importer) giveUp(ctx context.Context) error {
	if i.attempt == "" || !i.begun || i.had > 0 {
		return nil
	}
	i.done.Attempts--
	i.done.Lines -= i.last - i.lost
	i.done.Lost -= i.lost
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveUpTimeout)
	defer cancel()
	key := nimbus.LogKey{OrgID: i.org, AttemptID: i.attempt}
	have, err := i.store.Acked(ctx, key)
	if err == nil && have > 0 && (have == i.last || have == i.tried) {
		err = i.store.Delete(ctx, key)
	}
	if err != nil {
		return fmt.Errorf("remove what was read of %s: %w", i.attempt, err)
	}
	return nil
}
