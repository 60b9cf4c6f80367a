package runnerlog

import (
	"hash/maphash"
	"slices"
)

// Bounds of the ledger. The runner writes a step's page and the job's within
// one buffer of each other, so that honest books stay far below.
const (
	maxCounted = 64 << 10 // kinds of line in one count
	maxAhead   = 4 << 20  // bytes of lines that only the job's page has shown yet
	lineCost   = 64       // what a line takes beside its text
)

// line is a line of a page, or a piece of one that is very long.
type line struct {
	text string
	more bool // the line goes on
}

// ledger sees to it that every line is shown exactly once. The runner writes
// each line of a step twice: to the step's own page, and to the job's. Steps'
// pages are shown, since they say whose line it is and are whole as soon as
// their step ends. But a page is gone within a second of that, and what was
// missed there is still in the job's page, as are lines of no step. So the two
// are counted against each other: in the end as many of each text have been
// shown as the job's page has.
type ledger struct {
	seed    maphash.Seed
	shown   map[uint64]int // shown of steps, not seen in the job's page yet
	fromJob map[uint64]int // shown of the job's page, not seen in a step's
	ahead   []line         // seen in the job's page, not shown yet
	waits   map[uint64]int // the same, counted
	bytes   int            // of ahead
	off     bool           // the job's page lags too far: it is believed no more
}

func newLedger() *ledger {
	return &ledger{seed: maphash.MakeSeed(), shown: map[uint64]int{}, fromJob: map[uint64]int{}, waits: map[uint64]int{}}
}

func (l *ledger) sum(n line) uint64 {
	if n.more {
		return maphash.String(l.seed, n.text+"\n")
	}
	return maphash.String(l.seed, n.text)
}

// step takes a line of a step's page and says whether it is to be shown.
func (l *ledger) step(n line) bool {
	if l.off {
		return true
	}
	sum := l.sum(n)
	if took(l.fromJob, sum) {
		return false
	}
	if took(l.waits, sum) {
		i := slices.Index(l.ahead, n)
		l.ahead = slices.Delete(l.ahead, i, i+1)
		l.bytes -= len(n.text) + lineCost
		return true
	}
	l.shown[sum]++
	if len(l.shown) > maxCounted {
		l.off = true
		clear(l.shown)
		l.rest()
	}
	return true
}

// job takes a line of the job's page and returns the lines that are known now
// to be in no step's page: those before one that was shown already, since the
// job's page has them in the order of writing.
func (l *ledger) job(n line) []line {
	switch {
	case l.off:
		return nil
	case took(l.shown, l.sum(n)):
		return l.rest()
	}
	l.ahead = append(l.ahead, n)
	l.waits[l.sum(n)]++
	if l.bytes += len(n.text) + lineCost; l.bytes > maxAhead {
		return l.rest()
	}
	return nil
}

// rest gives up on steps' pages for what the job's has shown so far.
func (l *ledger) rest() []line {
	out := l.ahead
	l.ahead, l.bytes = nil, 0
	clear(l.waits)
	for _, n := range out {
		if len(l.fromJob) < maxCounted {
			l.fromJob[l.sum(n)]++
		}
	}
	return out
}

// took takes one from a count that has it.
func took(count map[uint64]int, sum uint64) bool {
	n, ok := count[sum]
	switch {
	case !ok:
		return false
	case n == 1:
		delete(count, sum)
	default:
		count[sum]--
	}
	return true
}
