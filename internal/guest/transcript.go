package guest

import (
	"bytes"
	"sync"
)

// Who writes to the stdout of a runner's transcript.
const (
	byRunner = iota // the runner's own words
	byJob           // what its pages have
)

// transcript joins what several write into one stream of whole lines.
type transcript struct {
	events *events
	mu     sync.Mutex
	last   int  // who wrote last
	begun  bool // and did not end the line
}

// write adds output. It waits as the events do.
func (t *transcript) write(who int, data []byte) {
	if len(data) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.begun && who != t.last {
		t.events.output("stdout", []byte("\n"))
	}
	t.last, t.begun = who, data[len(data)-1] != '\n'
	for len(data) > 0 {
		n := min(len(data), outputChunk)
		t.events.output("stdout", bytes.Clone(data[:n]))
		data = data[n:]
	}
}
