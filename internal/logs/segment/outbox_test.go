package segment

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs/logstest"
)

// handOn takes all that the outbox has, and says which lines came of which log.
func handOn(t *testing.T, s *Store) map[nimbus.LogKey][]int64 {
	t.Helper()
	got := map[nimbus.LogKey][]int64{}
	for {
		b, ok, err := s.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return got
		}
		for _, p := range b.Logs {
			for _, l := range p.Lines {
				got[p.Key] = append(got[p.Key], l.Seq)
			}
		}
		if err := s.Shipped(t.Context(), b.ID); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWhatIsDeletedIsNotHandedOn: also where the deletion is in a later file of the
// journal, and by the next process; a log that was begun anew is handed on as it is now.
func TestWhatIsDeletedIsNotHandedOn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := openOn(osDisk{}, dir, 1<<30, 1<<10, WithOutbox())
	if err != nil {
		t.Fatal(err)
	}
	near, far, anew, stays := key(), key(), key(), key()
	for _, k := range []nimbus.LogKey{far, anew} {
		appendLines(t, s, k, logstest.Lines(1, 30), 30)
	}
	for i := range int64(9) {
		appendLines(t, s, stays, logstest.Lines(i*30+1, i*30+30), i*30+30)
	}
	appendLines(t, s, near, logstest.Lines(1, 3), 3)
	for _, k := range []nimbus.LogKey{near, far, anew} {
		if err := s.Delete(t.Context(), k); err != nil {
			t.Fatal(err)
		}
	}
	appendLines(t, s, anew, logstest.Lines(1, 10), 10)
	if n := len(s.journal.list()); n < 3 {
		t.Fatalf("the journal has %d files", n)
	}
	abandon(t, s)
	if s, err = openOn(osDisk{}, dir, 1<<30, 1<<10, WithOutbox()); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	got := handOn(t, s)
	if len(got) != 2 || len(got[stays]) != 270 {
		t.Errorf("%d lines of the log that stays are handed on, and %d logs", len(got[stays]), len(got))
	}
	seen := map[int64]bool{}
	for _, seq := range got[anew] {
		seen[seq] = true
	}
	if len(seen) != 10 || !seen[1] || !seen[10] {
		t.Errorf("of the log that was begun anew: %v", got[anew])
	}
}

// blindDisk can't read files of the journal beyond some byte while it is told so.
type blindDisk struct {
	osDisk
	from atomic.Int64
}

type blindFile struct {
	file
	disk *blindDisk
}

var errBlind = errors.New("input/output error")

func (d *blindDisk) openFile(path string, flag int) (file, error) {
	f, err := d.osDisk.openFile(path, flag)
	if err != nil || filepath.Base(filepath.Dir(path)) != journalDir || strings.HasSuffix(path, stateFile) {
		return f, err
	}
	return blindFile{f, d}, nil
}

func (f blindFile) ReadAt(p []byte, at int64) (int, error) {
	from := f.disk.from.Load()
	if at >= from {
		return 0, errBlind
	}
	if at+int64(len(p)) > from {
		n, _ := f.file.ReadAt(p[:from-at], at)
		return n, errBlind
	}
	return f.file.ReadAt(p, at)
}

// TestAJournalThatCantBeReadHasNoEnd: lines that were acknowledged are not given up
// because the disk can't read for a while.
func TestAJournalThatCantBeReadHasNoEnd(t *testing.T) {
	t.Parallel()
	dir, d, k := t.TempDir(), &blindDisk{}, key()
	d.from.Store(1 << 40)
	s, err := openOn(d, dir, 1<<30, journalSize, WithOutbox())
	if err != nil {
		t.Fatal(err)
	}
	appendLines(t, s, k, logstest.Lines(1, 20), 20)
	first := s.journal.list()[0].size
	appendLines(t, s, k, logstest.Lines(21, 40), 40)
	abandon(t, s)
	for _, from := range []int64{0, 3, int64(len(journalMagic)) + 4, first, first + 3, first + 100} {
		d.from.Store(from)
		if s, err := openOn(d, dir, 1<<30, journalSize, WithOutbox()); !errors.Is(err, errBlind) {
			t.Errorf("a journal that can't be read from byte %d on: %v", from, err)
			if err == nil {
				abandon(t, s)
			}
		}
	}
	d.from.Store(1 << 40)
	if s, err = openOn(d, dir, 1<<30, journalSize, WithOutbox()); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	wantLines(t, s, k, 40)
	d.from.Store(first)
	if _, _, err := s.Next(t.Context()); err == nil {
		_, _, err = s.Next(t.Context())
		if !errors.Is(err, errBlind) {
			t.Errorf("the outbox: %v", err)
		}
	}
	d.from.Store(1 << 40)
	if n := len(handOn(t, s)[k]); n != 40 {
		t.Errorf("%d lines of 40 are handed on", n)
	}
}

// TestAnEarlyEndIsTold: in a file that is not the last one.
func TestAnEarlyEndIsTold(t *testing.T) {
	t.Parallel()
	dir, k := t.TempDir(), key()
	s, err := openOn(osDisk{}, dir, 1<<30, 1<<10, WithOutbox())
	if err != nil {
		t.Fatal(err)
	}
	close(s.stop) // nobody writes frames meanwhile, with which the journal would be done
	s.keeping.Wait()
	for i := range int64(9) {
		appendLines(t, s, k, logstest.Lines(i*30+1, i*30+30), i*30+30)
	}
	path := s.journal.path(s.journal.list()[0].number)
	if err := s.shut(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	whole[len(whole)-1] ^= 1
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	told := &strings.Builder{}
	if s, err = openOn(osDisk{}, dir, 1<<30, 1<<10, WithOutbox(), WithLog(slog.New(slog.NewTextHandler(told, nil)))); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if !strings.Contains(told.String(), "ends early") {
		t.Errorf("it is told: %q", told)
	}
}
