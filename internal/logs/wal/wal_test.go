package wal

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

func made(from, to int64, width int) []nimbus.Line {
	var out []nimbus.Line
	for seq := from; seq <= to; seq++ {
		out = append(out, nimbus.Line{
			Seq: seq, At: time.UnixMicro(1_700_000_000_000_000 + seq).UTC(), Stream: nimbus.StreamStderr, Step: 2,
			Text: fmt.Sprintf("line %d %s", seq, strings.Repeat("x", width)),
		})
	}
	return out
}

func open(t *testing.T, dir string) *Log {
	t.Helper()
	l, err := Open(dir, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestReadBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir)
	want := made(1, 100, 10)
	cp := Checkpoint{Event: 9, Step: 2, Pending: map[nimbus.Stream][]byte{nimbus.StreamStdout: []byte("beg")}, Masks: []string{"hide me"}}
	for i := 0; i < 100; i += 10 {
		if err := l.Append(want[i:i+10], cp); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		var got []nimbus.Line
		for from := int64(1); from <= 100; {
			page, err := l.Read(from, 300)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, page...)
			from += int64(len(page))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
		l.Close()
		l = open(t, dir)
		if last, state := l.Last(); last != 100 || !cmp.Equal(state, cp) {
			t.Fatalf("opened again: line %d, %+v", last, state)
		}
	}
}

// TestTornEnd cuts the file at every byte of its last append: what was written
// before stays, whole, and the log goes on.
func TestTornEnd(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir)
	if err := l.Append(made(1, 3, 5), Checkpoint{Event: 1}); err != nil {
		t.Fatal(err)
	}
	path := l.path(1)
	kept := l.files[0].size
	if err := l.Append(made(4, 6, 5), Checkpoint{Event: 2}); err != nil {
		t.Fatal(err)
	}
	l.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := kept; cut < int64(len(whole)); cut++ {
		torn := filepath.Join(t.TempDir(), "torn")
		if err := os.Mkdir(torn, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(torn, filepath.Base(path)), whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		l := open(t, torn)
		last, cp := l.Last()
		// Lines without their checkpoint would come twice: the event is read again.
		if cp.Event != 1 || last != 3 {
			t.Fatalf("cut at %d of %d: line %d, event %d", cut, len(whole), last, cp.Event)
		}
		if err := l.Append(made(last+1, last+2, 5), Checkpoint{Event: 2}); err != nil {
			t.Fatal(err)
		}
		if got, err := l.Read(1, 1<<20); err != nil || len(got) != 5 {
			t.Fatalf("cut at %d: %d lines, %v", cut, len(got), err)
		}
	}
}

func TestAcknowledgedFilesAreRemoved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir)
	for seq := int64(1); seq <= 1200; seq += 100 {
		if err := l.Append(made(seq, seq+99, 40_000), Checkpoint{}); err != nil {
			t.Fatal(err)
		}
	}
	count := func() int {
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		return len(files)
	}
	before := count()
	if before < 3 {
		t.Fatalf("%d files", before)
	}
	if err := l.Acknowledge(450); err != nil {
		t.Fatal(err)
	}
	if count() >= before {
		t.Error("nothing was freed")
	}
	got, err := l.Read(451, 1<<30)
	if err != nil || len(got) != 750 || got[0].Seq != 451 {
		t.Fatalf("%d lines, %v", len(got), err)
	}
	if err := l.Acknowledge(1200); err != nil {
		t.Fatal(err)
	}
	l.Close()
	if last, _ := open(t, dir).Last(); last != 1200 {
		t.Errorf("opened again: line %d", last)
	}
}

// TestALineThatIsLongInComing: a job that draws its progress on one line for hours
// must not fill the log with where that line stands, and wait for room for ever.
func TestALineThatIsLongInComing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const limit = 2*fileSize + fileSize/2
	l, err := Open(dir, limit)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { l.Close() }()
	for _, from := range []int64{1, 101} { // before the first line, and after some
		for event := range int64(12) {
			cp := Checkpoint{Event: from + event, State: make([]byte, 2<<20)}
			if err := l.Append(nil, cp); err != nil {
				t.Fatal(err)
			}
			if l.Full() {
				t.Fatalf("full at event %d", cp.Event)
			}
			if event%5 > 0 {
				continue
			}
			l.Close() // as when its agent is killed
			if l, err = Open(dir, limit); err != nil {
				t.Fatal(err)
			}
			if last, got := l.Last(); last != from-1 || got.Event != cp.Event || len(got.State) != len(cp.State) {
				t.Fatalf("opened again: line %d, event %d, want line %d, event %d", last, got.Event, from-1, cp.Event)
			}
		}
		if err := l.Append(made(from, from+99, 100_000), Checkpoint{}); err != nil { // more than a file
			t.Fatal(err)
		}
		if got, err := l.Read(from, 1<<30); err != nil || len(got) != 100 {
			t.Fatalf("%d lines, %v", len(got), err)
		}
		if err := l.Append(nil, Checkpoint{}); err != nil {
			t.Fatal(err)
		}
		if err := l.Acknowledge(from + 99); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFull(t *testing.T) {
	t.Parallel()
	l, err := Open(t.TempDir(), 1000)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if l.Full() {
		t.Error("an empty log is full")
	}
	if err := l.Append(made(1, 2, 1000), Checkpoint{}); err != nil {
		t.Fatal(err)
	}
	if !l.Full() {
		t.Error("a log over its limit isn't full")
	}
}

// TestDiskFullForAWhile: what is appended once there is room again is found
// again too.
func TestDiskFullForAWhile(t *testing.T) {
	t.Parallel()
	testenv.Require(t, "root")
	disk := t.TempDir()
	if err := unix.Mount("none", disk, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
	filler, dir := filepath.Join(disk, "filler"), filepath.Join(disk, "wal")
	if err := os.WriteFile(filler, make([]byte, 100<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	l := open(t, dir)
	if err := l.Append(made(1, 100, 100), Checkpoint{Event: 1}); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(made(101, 2000, 100), Checkpoint{Event: 2}); err == nil {
		t.Fatal("more was written than there is room for")
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(made(101, 110, 100), Checkpoint{Event: 2}); err != nil {
		t.Fatal(err)
	}
	again := open(t, dir)
	if last, cp := again.Last(); last != 110 || cp.Event != 2 {
		t.Errorf("found again: line %d, event %d", last, cp.Event)
	}
}
