package fs_test

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/blob/blobtest"
	"github.com/nimbus-ci/nimbus/internal/blob/fs"
)

// victimVariable makes this binary the process that TestKilled kills: it is the
// folder, and where its contents begin.
const victimVariable = "NIMBUS_BLOB_VICTIM"

// TestKilled kills a process in the middle of its writes, at random: what it was
// told is written is there, whatever is there is whole, and the next Open leaves
// nothing else.
func TestKilled(t *testing.T) {
	if dir, from, ok := strings.Cut(os.Getenv(victimVariable), " "); ok {
		write(t, dir, from)
		return
	}
	t.Parallel()
	dir := t.TempDir()
	half := 0
	written := map[string]bool{}
	for round := range 10 {
		killInTheMiddle(t, dir, round, written)
		half += len(files(t, filepath.Join(dir, ".incoming")))
		s, err := fs.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if left := files(t, filepath.Join(dir, ".incoming")); len(left) != 0 {
			t.Errorf("round %d: left: %v", round, left)
		}
		there := whole(t, s)
		for sum := range written {
			if !there[sum] {
				t.Errorf("round %d: %s was written, and is not there", round, sum)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d blobs were written, %d half when their process was killed", len(written), half)
	if half == 0 {
		t.Error("no process was killed in the middle")
	}
}

// killInTheMiddle runs the victim until it has written some blobs, and adds these.
func killInTheMiddle(t *testing.T, dir string, round int, written map[string]bool) {
	t.Helper()
	victim := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilled$")
	victim.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d", victimVariable, dir, round*1000))
	out, err := victim.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	n := 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		sum, ok := strings.CutPrefix(lines.Text(), "written ")
		if !ok {
			continue
		}
		written[sum] = true
		if n++; n == 5+round {
			if err := victim.Process.Kill(); err != nil {
				t.Error(err)
			}
		}
	}
	_ = victim.Wait() // it was killed
	if n < 5+round {
		t.Fatalf("the victim ended by itself, with %d blobs", n)
	}
}

// write is what the victim does, several at once, until it is killed.
func write(t *testing.T, dir, from string) {
	t.Helper()
	s, err := fs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	first, err := strconv.ParseUint(from, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error)
	for writer := range uint64(4) {
		go func() {
			for i := writer; ; i += 4 {
				raw := append(blobtest.Random(i, 1<<20), fmt.Sprint(first+i)...)
				sum, err := s.PutAddressed(t.Context(), "cas/"+fmt.Sprint(i%3), bytes.NewReader(raw), 2<<20)
				if err != nil {
					failed <- err
				}
				os.Stdout.WriteString("\nwritten " + fmt.Sprint(i%3) + "/" + sum + "\n")
			}
		}()
	}
	t.Fatal(<-failed)
}

// whole reads all that is listed and tells their names below cas/.
func whole(t *testing.T, s *fs.Store) map[string]bool {
	t.Helper()
	there := map[string]bool{}
	for after := ""; ; {
		found, err := s.List(t.Context(), "", after, 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(found) == 0 {
			return there
		}
		for _, l := range found {
			r, _, err := s.Open(t.Context(), l.Key)
			if err != nil {
				t.Fatal(err)
			}
			var raw bytes.Buffer
			if _, err := raw.ReadFrom(r); err != nil {
				t.Fatal(err)
			}
			r.Close()
			if sum := blobtest.SHA256(raw.Bytes()); sum != filepath.Base(l.Key) {
				t.Errorf("%s has other bytes", l.Key)
			}
			there[strings.TrimPrefix(l.Key, "cas/")] = true
		}
		after = found[len(found)-1].Key
	}
}
