package runner

import (
	"bytes"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus/internal/forge/githubtest/protocol"
)

// Bounds of the log.
const (
	maxLine      = 64 << 10 // a longer line is passed on in pieces
	maxUnsent    = 1 << 20  // beyond it writers wait until the server has taken some
	sendEvery    = 250 * time.Millisecond
	maxSend      = 256 << 10 // bytes in one call
	maxMasks     = 1000      // more are ignored
	maxMaskBytes = 32 << 10
)

// log takes a job's output, masks it, and passes it on to the pages at once and
// to the server in pieces. When the server can't be reached for as long as a
// call is retried, sending ends; the pages go on.
type log struct {
	pages  *diagnostics
	copy   io.Writer // nil for none
	client *client

	mu     sync.Mutex
	room   *sync.Cond // unsent became shorter, or sending ended
	line   []byte     // the unfinished line
	masks  []string
	unsent []byte
	closed bool
	broken bool

	wake chan struct{}
	done chan struct{} // sendLoop ended
}

func newLog(pages *diagnostics, also io.Writer, c *client) *log {
	l := &log{pages: pages, copy: also, client: c, wake: make(chan struct{}, 1), done: make(chan struct{})}
	l.room = sync.NewCond(&l.mu)
	go l.sendLoop()
	return l
}

// heading begins a step.
func (l *log) heading(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flushLocked()
	name = strings.Map(func(r rune) rune {
		if r == '\n' || r == '\r' {
			return ' '
		}
		return r
	}, l.mask(name))
	l.pages.begin(name)
	if l.copy != nil {
		_, _ = io.WriteString(l.copy, protocol.StepPrefix+name+"\n") // gone: its owner's business
	}
	l.send([]byte("##[group]" + name + "\n"))
}

// Write takes output. It never fails: a log that can't be kept must not fail
// the job.
func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for rest := p; len(rest) > 0; {
		i := bytes.IndexByte(rest, '\n') + 1
		if i == 0 {
			i = len(rest)
		}
		l.line = append(l.line, rest[:i]...)
		rest = rest[i:]
		if l.line[len(l.line)-1] == '\n' {
			l.flushLocked()
		} else if len(l.line) > maxLine {
			l.flushLongLocked()
		}
	}
	return len(p), nil
}

// flushLine passes on a line that has no end yet and ends it.
func (l *log) flushLine() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.line) > 0 {
		l.line = append(l.line, '\n')
		l.flushLocked()
	}
}

func (l *log) flushLocked() {
	if len(l.line) == 0 {
		return
	}
	text := string(l.line)
	l.line = l.line[:0]
	if value, ok := strings.CutPrefix(strings.TrimSpace(text), "::add-mask::"); ok {
		l.addMask(value)
		return // as the official runner, it says nothing of it
	}
	l.emit([]byte(l.mask(text)))
}

// flushLongLocked passes on the beginning of a line that is too long, but
// keeps as much of its end as a mask that has only begun there may have.
func (l *log) flushLongLocked() {
	text := l.mask(string(l.line))
	longest := 0
	for _, m := range l.masks {
		longest = max(longest, len(m)-1)
	}
	cut := max(len(text)-longest, 0)
	if longest == 0 || cut > 0 {
		l.emit([]byte(text[:cut]))
		l.line = append(l.line[:0], text[cut:]...)
	}
}

func (l *log) addMask(value string) {
	if value = strings.TrimSpace(value); value != "" && len(value) <= maxMaskBytes && len(l.masks) < maxMasks {
		l.masks = append(l.masks, value)
	}
}

func (l *log) mask(s string) string {
	for _, m := range l.masks {
		s = strings.ReplaceAll(s, m, "***")
	}
	return s
}

func (l *log) emit(b []byte) {
	l.pages.write(b)
	if l.copy != nil {
		_, _ = l.copy.Write(b)
	}
	l.send(b)
}

// send queues b for the server and waits while too much is queued.
func (l *log) send(b []byte) {
	for len(l.unsent) > maxUnsent && !l.broken && !l.closed {
		l.signal()
		l.room.Wait()
	}
	if l.broken || l.closed {
		return
	}
	l.unsent = append(l.unsent, b...)
	if len(l.unsent) > maxSend {
		l.signal()
	}
}

func (l *log) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// sendLoop is the one that sends; it ends with close or when the server is
// gone or has enough.
func (l *log) sendLoop() {
	defer close(l.done)
	ticker := time.NewTicker(sendEvery)
	defer ticker.Stop()
	var offset int64
	for {
		l.mu.Lock()
		b := bytes.Clone(l.unsent[:min(len(l.unsent), maxSend)])
		closed := l.closed
		l.mu.Unlock()
		if len(b) > 0 {
			err := l.client.appendLog(offset, b)
			offset += int64(len(b))
			l.mu.Lock()
			l.unsent = append(l.unsent[:0], l.unsent[len(b):]...)
			l.broken = err != nil
			l.room.Broadcast()
			l.mu.Unlock()
			if err != nil {
				return
			}
			continue
		}
		if closed {
			return
		}
		select {
		case <-ticker.C:
		case <-l.wake:
		}
	}
}

// close sends what is left. It may be called twice.
func (l *log) close() {
	l.mu.Lock()
	l.flushLocked()
	l.closed = true
	l.room.Broadcast()
	l.mu.Unlock()
	l.signal()
	<-l.done
}
