// Package lines turns what a job writes into lines: numbered, masked, bounded.
package lines

import (
	"bytes"
	"slices"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Directives that a job may write as a line of stdout.
const (
	stepDirective = "::nimbus-step::" // begins a step: the rest is its name
	maskDirective = "::add-mask::"    // GitHub's own: hides the rest from now on
)

// maxStepName is the longest name of a step; the rest is cut.
const maxStepName = 256

// Splitter makes lines of one attempt. Not safe for concurrent use.
type Splitter struct {
	clock   nimbus.Clock
	masks   masks
	seq     int64
	step    int32
	pending map[nimbus.Stream][]byte
}

// NewSplitter continues after line number last, which was in the given step.
func NewSplitter(clock nimbus.Clock, last int64, step int32) *Splitter {
	return &Splitter{clock: clock, seq: last, step: step, pending: map[nimbus.Stream][]byte{}}
}

// Mask hides a secret, and each line of one that has several, from now on. It
// returns false for one that is too short to be told from ordinary text.
func (s *Splitter) Mask(secret string) bool { return s.masks.add(secret) }

// Masks returns what is hidden, for a splitter that continues this one.
func (s *Splitter) Masks() []string { return s.masks.list() }

// Pending returns the begun lines of each stream, nil when there are none.
func (s *Splitter) Pending() map[nimbus.Stream][]byte {
	var out map[nimbus.Stream][]byte
	for stream, begun := range s.pending {
		if len(begun) > 0 {
			if out == nil {
				out = map[nimbus.Stream][]byte{}
			}
			out[stream] = begun
		}
	}
	return out
}

// Resume takes over the begun lines of an earlier splitter.
func (s *Splitter) Resume(pending map[nimbus.Stream][]byte) {
	for stream, begun := range pending {
		s.pending[stream] = begun
	}
}

// Last returns the number of the newest line and the step that it is in.
func (s *Splitter) Last() (seq int64, step int32) { return s.seq, s.step }

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

// System makes a line of Nimbus' own.
func (s *Splitter) System(text string) nimbus.Line {
	return s.line(nimbus.StreamSystem, s.masks.hide(text))
}

// whole makes lines of one whole line of output.
func (s *Splitter) whole(stream nimbus.Stream, text string) []nimbus.Line {
	if stream == nimbus.StreamStdout {
		if secret, ok := strings.CutPrefix(text, maskDirective); ok {
			s.masks.add(strings.TrimSpace(unescape(secret)))
			return nil
		}
		if name, ok := strings.CutPrefix(text, stepDirective); ok {
			s.step++
			name = s.masks.hide(strings.TrimSpace(name))
			return []nimbus.Line{s.line(nimbus.StreamStep, strings.ToValidUTF8(name[:min(len(name), maxStepName)], "�"))}
		}
	}
	text = s.masks.hide(text)
	var out []nimbus.Line
	for len(text) > nimbus.MaxLineBytes {
		out = append(out, s.line(stream, text[:nimbus.MaxLineBytes]))
		text = text[nimbus.MaxLineBytes:]
	}
	return append(out, s.line(stream, text))
}

func (s *Splitter) line(stream nimbus.Stream, text string) nimbus.Line {
	s.seq++
	return nimbus.Line{Seq: s.seq, At: s.clock.Now().Truncate(time.Microsecond), Stream: stream, Step: s.step, Text: text}
}

// unescape undoes what GitHub's toolkit does to values in directives.
func unescape(s string) string {
	return strings.NewReplacer("%0D", "\r", "%0A", "\n", "%25", "%").Replace(s)
}
