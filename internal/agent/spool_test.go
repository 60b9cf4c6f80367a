package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
)

func batchOf(data string) nimbus.TelemetryBatch {
	return nimbus.TelemetryBatch{Signal: nimbus.SignalTraces, Items: 1, Data: []byte(data)}
}

func reopen(t *testing.T, dir string) *spool {
	t.Helper()
	s, err := openSpool(dir, 1000)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// held is what a spool would send.
func held(t *testing.T, s *spool) string {
	t.Helper()
	batches, _, err := s.next(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, b := range batches {
		all = append(all, fmt.Sprintf("%d:%s", b.GetSeq(), b.GetData()))
	}
	return strings.Join(all, " ")
}

// TestSpool: what is in is there after the agent has ended, its number is given to
// nothing else, also once all was sent, and no request of the guest comes in twice.
func TestSpool(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "otlp")
	s := reopen(t, dir)
	for i, data := range []string{"a", "b", "c"} {
		if err := s.add(batchOf(data), int64(10*i+10)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, ".draft"), nil, 0o600); err != nil { // of an agent that was killed
		t.Fatal(err)
	}
	if s = reopen(t, dir); held(t, s) != "1:a 2:b 3:c" || s.takenSeq() != 30 {
		t.Errorf("it holds %s, taken up to %d", held(t, s), s.takenSeq())
	}
	for _, acked := range []int64{2, 1, 3, 3} {
		if err := s.acknowledge(acked); err != nil {
			t.Fatal(err)
		}
	}
	if s = reopen(t, dir); held(t, s) != "" || s.takenSeq() != 30 || !s.awaitEmpty(t.Context()) {
		t.Errorf("once all is sent it holds %q, taken up to %d", held(t, s), s.takenSeq())
	}
	if err := s.add(batchOf("d"), 31); err != nil || held(t, s) != "4:d" {
		t.Errorf("after that: %s, %v", held(t, s), err)
	}
	if err := s.acknowledge(4); err != nil {
		t.Fatal(err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
		t.Errorf("left on disk: %v, %v", files, err)
	}
}

// TestSpoolIsBounded: at its limit, and once the server wants no more.
func TestSpoolIsBounded(t *testing.T) {
	t.Parallel()
	s := reopen(t, filepath.Join(t.TempDir(), "otlp"))
	if err := s.add(batchOf(strings.Repeat("x", 600)), 1); err != nil {
		t.Fatal(err)
	}
	if err := s.add(batchOf(strings.Repeat("y", 600)), 2); !errors.Is(err, errSpoolFull) {
		t.Errorf("one too many: %v", err)
	}
	if err := s.acknowledge(1); err != nil {
		t.Fatal(err)
	}
	if err := s.add(batchOf(strings.Repeat("y", 600)), 2); err != nil {
		t.Errorf("with room again: %v", err)
	}
	if err := s.close(); err != nil || held(t, s) != "" || !s.awaitEmpty(t.Context()) {
		t.Errorf("closed, it holds %q: %v", held(t, s), err)
	}
	if err := s.add(batchOf("z"), 3); !errors.Is(err, errSpoolClosed) {
		t.Errorf("into a closed one: %v", err)
	}
}

// TestSpoolSendsInParts: one call carries so many bytes, and one batch at least.
func TestSpoolSendsInParts(t *testing.T) {
	t.Parallel()
	s := reopen(t, filepath.Join(t.TempDir(), "otlp"))
	for i := range 3 {
		if err := s.add(batchOf(strings.Repeat("x", 100)), int64(i)+1); err != nil {
			t.Fatal(err)
		}
	}
	for most, want := range map[int64]int{1: 1, 250: 2, 10000: 3} {
		if batches, _, err := s.next(most); err != nil || len(batches) != want {
			t.Errorf("%d bytes: %d batches, %v", most, len(batches), err)
		}
	}
}
