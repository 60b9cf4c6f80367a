package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
	"github.com/nimbus-ci/nimbus/internal/logs/logstest"
)

func key() nimbus.LogKey {
	return nimbus.LogKey{OrgID: nimbus.DefaultOrgID, AttemptID: nimbus.NewID(nimbus.PrefixAttempt, time.Now())}
}

func open(t *testing.T, dir string, options ...Option) *Store {
	t.Helper()
	s, err := Open(dir, 1<<30, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// abandon leaves a store as a process that is killed does.
func abandon(t *testing.T, s *Store) {
	t.Helper()
	select {
	case <-s.stop:
		return
	default:
	}
	close(s.stop)
	s.keeping.Wait()
	if err := s.shut(); err != nil {
		t.Fatal(err)
	}
}

func appendLines(t *testing.T, s *Store, k nimbus.LogKey, lines []nimbus.Line, want int64) {
	t.Helper()
	acked, err := s.Append(t.Context(), k, lines)
	if err != nil || acked != want {
		t.Fatalf("acknowledged %d, want %d: %v", acked, want, err)
	}
}

func wantLines(t *testing.T, s *Store, k nimbus.LogKey, to int64) {
	t.Helper()
	got, err := s.Read(t.Context(), k, 1, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(logstest.Lines(1, to), got); diff != "" {
		t.Fatalf("(-want +got)\n%.2000s", diff)
	}
}

// TestConformance: the files of its journal are small, so that they are often done with.
func TestConformance(t *testing.T) {
	t.Parallel()
	dir, first := t.TempDir(), true
	var s *Store
	t.Cleanup(func() { s.Close() })
	logstest.Run(t, func() logstest.Store {
		if first = !first; first {
			abandon(t, s)
		} else if s != nil {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		var err error
		if s, err = openOn(osDisk{}, dir, 1<<30, 4<<10, WithOutbox()); err != nil {
			t.Fatal(err)
		}
		return s
	})
}

func TestOverlapsAreTrimmedAndGapsRefused(t *testing.T) {
	t.Parallel()
	s, k := open(t, t.TempDir()), key()
	appendLines(t, s, k, logstest.Lines(1, 10), 10)
	appendLines(t, s, k, logstest.Lines(5, 20), 20)
	appendLines(t, s, k, logstest.Lines(1, 20), 20)
	appendLines(t, s, k, logstest.Lines(30, 40), 20)
	wantLines(t, s, k, 20)
	broken := logstest.Lines(21, 23)
	broken[1].Seq = 30
	if _, err := s.Append(t.Context(), k, broken); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
		t.Errorf("a gap within one append: %v", err)
	}
}

// TestTornJournal cuts the journal at every byte of its last record.
func TestTornJournal(t *testing.T) {
	t.Parallel()
	dir, k := t.TempDir(), key()
	s := open(t, dir)
	appendLines(t, s, k, logstest.Lines(1, 5), 5)
	kept := s.journal.list()[0].size
	appendLines(t, s, k, logstest.Lines(6, 9), 9)
	path := s.journal.path(1)
	abandon(t, s)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := kept; cut < int64(len(whole)); cut++ {
		torn := t.TempDir()
		if err := os.Mkdir(filepath.Join(torn, journalDir), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(torn, journalDir, filepath.Base(path)), whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, torn)
		if acked, err := s.Acked(t.Context(), k); err != nil || acked != 5 {
			t.Fatalf("cut at %d: %d, %v", cut, acked, err)
		}
		appendLines(t, s, k, logstest.Lines(6, 7), 7)
		abandon(t, s)
		s = open(t, torn)
		wantLines(t, s, k, 7)
		s.Close()
	}
}

// TestDamage: a flipped bit is told, not shown, and what lies behind it is there.
func TestDamage(t *testing.T) {
	t.Parallel()
	for name, at := range map[string]func(f frame) int64{
		"header":  func(f frame) int64 { return f.offset + 30 },
		"magic":   func(f frame) int64 { return f.offset },
		"payload": func(f frame) int64 { return f.offset + headerSize + 5 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, k := t.TempDir(), key()
			s := open(t, dir)
			for i := range int64(3) {
				appendLines(t, s, k, logstest.Lines(i*10+1, i*10+10), i*10+10)
				s.open[k].mu.Lock()
				if err := s.open[k].seal(); err != nil {
					t.Fatal(err)
				}
				s.open[k].mu.Unlock()
			}
			path, bad := s.open[k].path, at(s.open[k].frames[1])
			s.Close()
			whole, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			whole[bad] ^= 1
			if err := os.WriteFile(path, whole, 0o600); err != nil {
				t.Fatal(err)
			}
			s = open(t, dir)
			if got, err := s.Read(t.Context(), k, 1, 10); err != nil || !cmp.Equal(got, logstest.Lines(1, 10)) {
				t.Errorf("what is before it: %v, %v", got, err)
			}
			if got, err := s.Read(t.Context(), k, 1, 30); err != nil || !cmp.Equal(got, logstest.Lines(1, 10)) {
				t.Errorf("what is before it, of a page that goes beyond: %v, %v", got, err)
			}
			for _, from := range []int64{11, 15} {
				var damaged *logs.DamagedError
				if got, err := s.Read(t.Context(), k, from, 10); !errors.As(err, &damaged) || damaged.First != from || damaged.Last != 20 {
					t.Errorf("a damaged frame was read from line %d: %v, %v", from, got, err)
				}
			}
			if got, err := s.Read(t.Context(), k, 21, 10); err != nil || !cmp.Equal(got, logstest.Lines(21, 30)) {
				t.Errorf("what is behind it: %v, %v", got, err)
			}
			appendLines(t, s, k, logstest.Lines(31, 32), 32)
			page, err := s.Search(t.Context(), k.OrgID, logs.Query{})
			if err != nil || len(page.Found) != 22 {
				t.Errorf("found %d lines, %v", len(page.Found), err)
			}
		})
	}
}

// oldFrame makes a frame as the releases before the journal did.
func oldFrame(t *testing.T, lines []nimbus.Line) []byte {
	t.Helper()
	var raw []byte
	for _, l := range lines {
		raw = logs.AppendRecord(raw, l)
	}
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	out := enc.EncodeAll(raw, make([]byte, oldHeaderSize))
	le := binary.LittleEndian
	copy(out, oldMagic)
	le.PutUint32(out[4:], uint32(len(lines)))
	le.PutUint64(out[8:], uint64(lines[0].Seq))
	le.PutUint32(out[16:], uint32(len(out)-oldHeaderSize))
	le.PutUint32(out[20:], uint32(len(raw)))
	le.PutUint32(out[24:], crc32.Update(crc32.ChecksumIEEE(out[:24]), crc32.IEEETable, out[oldHeaderSize:]))
	return out
}

// TestLogsOfBefore: they are read, counted, found and gone on with. What a crash tore
// was not acknowledged then.
func TestLogsOfBefore(t *testing.T) {
	t.Parallel()
	dir, k := t.TempDir(), key()
	path := filepath.Join(dir, k.OrgID, k.AttemptID+extension)
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	torn := oldFrame(t, logstest.Lines(31, 40))
	torn[len(torn)-1] ^= 1
	old := bytes.Join([][]byte{oldFrame(t, logstest.Lines(1, 10)), oldFrame(t, logstest.Lines(11, 30)), torn}, nil)
	if err := os.WriteFile(path, old, 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	wantLines(t, s, k, 30)
	appendLines(t, s, k, logstest.Lines(31, 35), 35)
	s.Close()
	s = open(t, dir)
	wantLines(t, s, k, 35)
	if c, err := s.Counts(t.Context(), k); err != nil || c.Lines != 35 || c.ByLevel[logs.LevelNone] != 35 {
		t.Errorf("%+v, %v", c, err)
	}
	if page, err := s.Search(t.Context(), k.OrgID, logs.Query{Text: "line 2", Limit: 5}); err != nil || len(page.Found) != 5 || page.Found[4].Line.Seq != 23 {
		t.Errorf("%+v, %v", page, err)
	}
}

func TestNamesAreChecked(t *testing.T) {
	t.Parallel()
	s, k := open(t, t.TempDir()), key()
	for _, bad := range []nimbus.LogKey{
		{OrgID: "..", AttemptID: k.AttemptID}, {OrgID: nimbus.DefaultOrgID, AttemptID: "../" + k.AttemptID}, {OrgID: "", AttemptID: k.AttemptID},
	} {
		if _, err := s.Append(t.Context(), bad, logstest.Lines(1, 1)); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

func TestManyLogsFewFiles(t *testing.T) {
	t.Parallel()
	s, err := Open(t.TempDir(), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.shut(); err != nil {
			t.Error(err)
		}
	})
	close(s.stop) // who writes in the background holds all logs for a moment, and more come meanwhile
	s.keeping.Wait()
	keys := make([]nimbus.LogKey, maxOpen+200)
	for i := range keys {
		keys[i] = key()
		appendLines(t, s, keys[i], logstest.Lines(1, 2), 2)
	}
	if err := s.settle(everything); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, k := range keys {
			wantLines(t, s, k, 2)
		}
	}
	if n := s.handles.Load(); len(s.open) > maxOpen+1 || n > maxOpen+1 {
		t.Errorf("%d logs are in memory, %d files are open", len(s.open), n)
	}
	appendLines(t, s, keys[0], logstest.Lines(3, 3), 3)
	if err := s.Delete(t.Context(), keys[0]); err != nil {
		t.Fatal(err)
	}
	if acked, err := s.Acked(t.Context(), keys[0]); err != nil || acked != 0 {
		t.Errorf("after delete: %d, %v", acked, err)
	}
	if err := s.settle(everything); err != nil {
		t.Fatal(err)
	}
	for range 3 { // names of no log leave nothing behind
		if _, err := s.Acked(t.Context(), key()); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.open) > maxOpen+1 {
		t.Errorf("%d logs are in memory", len(s.open))
	}
}

func TestLimit(t *testing.T) {
	t.Parallel()
	s, err := Open(t.TempDir(), 10)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	k := key()
	appendLines(t, s, k, logstest.Lines(1, 3), 3)
	if err := s.settle(everything); err != nil {
		t.Fatal(err)
	}
	if acked, err := s.Append(t.Context(), k, logstest.Lines(4, 5)); nimbus.ErrorCode(err) != nimbus.CodeTooLarge || acked != 3 {
		t.Errorf("%d, %v", acked, err)
	}
}

// TestWhatIsSilentLeavesMemory, and what is in frames leaves the journal.
func TestWhatIsSilentLeavesMemory(t *testing.T) {
	t.Parallel()
	s, err := openOn(osDisk{}, t.TempDir(), 1<<30, 1<<10)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	k := key()
	appendLines(t, s, k, logstest.Lines(1, 3), 3)
	if err := s.tend(time.Now().Add(2 * idle)); err != nil {
		t.Fatal(err)
	}
	if n := s.pending.Load(); n != 0 {
		t.Errorf("%d bytes are in memory", n)
	}
	for i := range int64(40) {
		appendLines(t, s, k, logstest.Lines(4+i*20, 23+i*20), 23+i*20)
		if i%10 == 9 { // who writes on its own may be behind, and lines are refused then
			if err := s.tend(time.Now()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := len(s.journal.list()); n > keptParts+1 {
		t.Errorf("the journal has %d files", n)
	}
	wantLines(t, s, k, 803)
}

// slowDisk counts syncs of the journal.
type slowDisk struct {
	osDisk
	mu    sync.Mutex
	syncs int
}

type slowFile struct {
	file
	disk *slowDisk
}

func (d *slowDisk) openFile(path string, flag int) (file, error) {
	f, err := d.osDisk.openFile(path, flag)
	if err != nil || filepath.Base(filepath.Dir(path)) != journalDir {
		return f, err
	}
	return slowFile{f, d}, nil
}

func (f slowFile) Sync() error {
	f.disk.mu.Lock()
	f.disk.syncs++
	f.disk.mu.Unlock()
	time.Sleep(50 * time.Millisecond) // much longer than a hundred take to come, also on a busy machine
	return f.file.Sync()
}

// TestThoseWhoAppendAtOnceShareASync: with a disk that takes its time, a hundred
// appends at once take a few syncs.
func TestThoseWhoAppendAtOnceShareASync(t *testing.T) {
	t.Parallel()
	d := &slowDisk{}
	s, err := openOn(d, t.TempDir(), 1<<30, journalSize)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var all sync.WaitGroup
	keys := make([]nimbus.LogKey, 100)
	for i := range keys {
		keys[i] = key()
		all.Go(func() {
			if acked, err := s.Append(t.Context(), keys[i], logstest.Lines(1, 10)); err != nil || acked != 10 {
				t.Errorf("%d, %v", acked, err)
			}
		})
	}
	all.Wait()
	d.mu.Lock()
	syncs := d.syncs
	d.mu.Unlock()
	if syncs >= len(keys)/2 {
		t.Errorf("%d syncs for %d appends", syncs, len(keys))
	}
	for _, k := range keys {
		wantLines(t, s, k, 10)
	}
}
