package httpapi

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/nimbus-ci/nimbus"
)

// numbered are lines from one on; those from line 3000 on are large.
func numbered(first, n int) (page []nimbus.Line) {
	for seq := first; seq < first+n; seq++ {
		long := 0
		if seq >= 3000 {
			long = 60 << 10
		}
		page = append(page, nimbus.Line{Seq: int64(seq), Stream: nimbus.StreamStdout, Text: fmt.Sprint(seq, strings.Repeat("x", long))})
	}
	return page
}

// TestFramesAreEncodedOnce: of a log that two follow, one of whom is later; of a log that
// one follows nothing is kept.
func TestFramesAreEncodedOnce(t *testing.T) {
	t.Parallel()
	l, key := newLineFrames(), nimbus.LogKey{OrgID: "a", AttemptID: "x"}
	events := func(w *frameWindow, page []nimbus.Line) []event {
		t.Helper()
		out, err := l.events(w, "x", page)
		if err != nil || len(out) != len(page) {
			t.Fatalf("%d events of %d lines, %v", len(out), len(page), err)
		}
		return out
	}
	one, oneLeaves := l.follow(key)
	events(one, numbered(1, 10))
	if len(one.frames) != 0 {
		t.Error("what one reader has is kept")
	}
	two, twoLeaves := l.follow(key)
	if two != one {
		t.Fatal("two who follow one log share nothing")
	}
	a, b := events(one, numbered(11, 10)), events(two, numbered(15, 20))
	for i := range 6 {
		if &a[4+i].frame[0] != &b[i].frame[0] {
			t.Errorf("line %d was encoded twice", 15+i)
		}
	}
	if c := events(one, numbered(21, 14)); &c[13].frame[0] != &b[19].frame[0] {
		t.Error("what the later one encoded is not shared")
	}
	other, otherLeaves := l.follow(nimbus.LogKey{OrgID: "b", AttemptID: "x"})
	if other == one {
		t.Error("two orgs share a log")
	}
	oneLeaves()
	twoLeaves()
	otherLeaves()
	if len(l.logs) != 0 {
		t.Errorf("%d logs that nobody follows", len(l.logs))
	}
}

// TestFramesAreTheLines: whoever reads where, each gets the lines that it asked for, and
// what is kept has bounds.
func TestFramesAreTheLines(t *testing.T) {
	t.Parallel()
	l, key := newLineFrames(), nimbus.LogKey{OrgID: "a", AttemptID: "x"}
	var readers sync.WaitGroup
	for r := range 8 {
		w, leave := l.follow(key)
		readers.Go(func() {
			defer leave()
			random := rand.New(rand.NewPCG(1, uint64(r)))
			most := 500
			for from := 1 + random.IntN(1000); from < 3500; from += random.IntN(most) - most/8 {
				from = max(from, 1)
				if from > 2500 {
					most = 20
				}
				page := numbered(from, 1+random.IntN(most))
				events, err := l.events(w, "x", page)
				if err != nil || len(events) != len(page) {
					t.Errorf("%d events of %d lines, %v", len(events), len(page), err)
					return
				}
				for i, line := range page {
					want, err := lineEvent("x", line)
					if err != nil || events[i].id != want.id || !bytes.Equal(events[i].frame, want.frame) {
						t.Errorf("line %d is %.200s", line.Seq, events[i].frame)
						return
					}
				}
				w.mu.RLock()
				if len(w.frames) > frameLines || w.size > frameBytes {
					t.Errorf("%d lines of %d bytes are kept", len(w.frames), w.size)
				}
				w.mu.RUnlock()
			}
		})
	}
	readers.Wait()
}
