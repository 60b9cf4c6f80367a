// Package lines turns what a job writes into lines: numbered, masked, bounded.
package lines

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Splitter makes lines of one attempt. Not safe for concurrent use.
type Splitter struct {
	clock   nimbus.Clock
	masks   masks
	runner  bool
	seq     int64
	step    int32
	groups  int32   // that began so far
	open    []int32 // groups that lines are in now, the innermost last
	stopped string  // what ends that no commands are followed; "" where they are
	pending map[nimbus.Stream][]byte
	warned  bool // that no more can be hidden
}

// State is what a splitter must know to go on where another one ended. It holds
// secrets.
type State struct {
	// Runner says that the output is made of what GitHub's runner leaves: each of
	// its steps begins by Nimbus' own command, whatever the one before has stopped.
	Runner  bool                     `json:"runner,omitempty"`
	Step    int32                    `json:"step,omitempty"`
	Groups  int32                    `json:"groups,omitempty"`
	Open    []int32                  `json:"open,omitempty"`
	Stopped string                   `json:"stopped,omitempty"`
	Pending map[nimbus.Stream][]byte `json:"pending,omitempty"` // begun lines
	Masks   []string                 `json:"masks,omitempty"`   // in the order in which they were added
}

// NewSplitter continues after line number last.
func NewSplitter(clock nimbus.Clock, last int64, from State) *Splitter {
	s := &Splitter{
		clock: clock, runner: from.Runner, seq: last, step: from.Step, groups: from.Groups, open: slices.Clone(from.Open), stopped: from.Stopped,
		pending: map[nimbus.Stream][]byte{},
	}
	maps.Copy(s.pending, from.Pending)
	for _, secret := range from.Masks {
		s.masks.add(secret)
	}
	return s
}

// State is what a splitter that goes on needs.
func (s *Splitter) State() State {
	st := State{Runner: s.runner, Step: s.step, Groups: s.groups, Open: slices.Clone(s.open), Stopped: s.stopped, Masks: s.masks.list()}
	for stream, begun := range s.pending {
		if len(begun) > 0 {
			if st.Pending == nil {
				st.Pending = map[nimbus.Stream][]byte{}
			}
			st.Pending[stream] = begun
		}
	}
	return st
}

// Mask hides a secret in all its forms, and each line of one that has several, from
// now on. It returns false for one that is too short to be told from ordinary text,
// and where there are too many.
func (s *Splitter) Mask(secret string) bool { return s.masks.add(secret) }

// Last returns the number of the newest line.
func (s *Splitter) Last() int64 { return s.seq }

// Write takes what a stream wrote and returns the lines that are whole now. A
// line longer than nimbus.MaxLineBytes becomes several; a secret is never cut
// in two by that.
func (s *Splitter) Write(stream nimbus.Stream, data []byte) []nimbus.Line {
	var out []nimbus.Line
	buf := slices.Concat(s.pending[stream], data)
	for {
		i := bytes.IndexByte(buf, '\n')
		if i < 0 {
			break
		}
		out = append(out, s.whole(stream, string(bytes.TrimSuffix(buf[:i], []byte("\r"))))...)
		buf = buf[i+1:]
	}
	for len(buf) > nimbus.MaxLineBytes+s.masks.longest {
		n := s.masks.safeCut(string(buf), nimbus.MaxLineBytes)
		out = append(out, s.whole(stream, string(buf[:n]))...)
		buf = buf[n:]
	}
	// What is kept is small; the array that it was in may not be.
	s.pending[stream] = bytes.Clone(buf)
	return out
}

// Flush returns what is left of all streams: at the job's end, or when a
// prompt without an end has waited long enough.
func (s *Splitter) Flush() []nimbus.Line {
	var out []nimbus.Line
	for _, stream := range []nimbus.Stream{nimbus.StreamStdout, nimbus.StreamStderr} {
		if rest := s.pending[stream]; len(rest) > 0 {
			delete(s.pending, stream)
			out = append(out, s.whole(stream, string(rest))...)
		}
	}
	return out
}

// System makes a line of Nimbus' own, which is in no group.
func (s *Splitter) System(text string) nimbus.Line {
	l := s.line(nimbus.StreamSystem, s.masks.hide(text))
	l.Group = 0
	return l
}

// whole makes lines of one whole line of output.
func (s *Splitter) whole(stream nimbus.Stream, text string) []nimbus.Line {
	closes := false
	switch c := s.follow(text); c.what {
	case commandMask:
		return s.Hide(c.value)
	case commandStep:
		return []nimbus.Line{s.beginStep(c.value)}
	case commandGroup:
		s.beginGroup()
	case commandEndGroup:
		closes = true
	case commandNone:
	}
	text = s.masks.hide(text)
	var out []nimbus.Line
	for len(text) > nimbus.MaxLineBytes {
		out = append(out, s.line(stream, text[:nimbus.MaxLineBytes]))
		text = text[nimbus.MaxLineBytes:]
	}
	out = append(out, s.line(stream, text))
	if closes && len(s.open) > 0 {
		s.open = s.open[:len(s.open)-1]
	}
	return out
}

// tooManyMasks is said once, in the log of who relies on it.
const tooManyMasks = "nimbus: too much is to be hidden: this secret and later ones are shown"

// Hide hides from now on what a job asks to, and returns what is to be said of that.
func (s *Splitter) Hide(secret string) []nimbus.Line {
	s.masks.add(secret)
	if !s.masks.full || s.warned {
		return nil
	}
	s.warned = true
	return []nimbus.Line{s.System(tooManyMasks)}
}

// beginStep ends the groups that are open.
func (s *Splitter) beginStep(name string) nimbus.Line {
	s.step++
	s.open = s.open[:0]
	name = s.masks.hide(strings.TrimSpace(name))
	return s.line(nimbus.StreamStep, strings.ToValidUTF8(name[:min(len(name), maxStepName)], "�"))
}

// beginGroup has the lines from now on be in a group, in that which they are in. One
// that is too deep is in the one above instead.
func (s *Splitter) beginGroup() {
	s.groups++
	if len(s.open) == maxDepth {
		s.open = s.open[:maxDepth-1]
	}
	s.open = append(s.open, s.groups)
}

func (s *Splitter) line(stream nimbus.Stream, text string) nimbus.Line {
	s.seq++
	l := nimbus.Line{Seq: s.seq, At: s.clock.Now().Truncate(time.Microsecond), Stream: stream, Step: s.step, Text: text}
	if n := len(s.open); n > 0 {
		l.Group = s.open[n-1]
	}
	return l
}
