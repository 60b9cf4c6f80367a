package terminal

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mattn/go-isatty"
)

// Screen is where somebody else's lines are shown. A terminal does what control
// characters say: set its title, write its clipboard, hide text. A pipe or a file
// does nothing, and gets each line as it is.
type Screen struct{ terminal, colours bool }

// ScreenOf looks at where w leads to.
func ScreenOf(w io.Writer) Screen {
	f, ok := w.(*os.File)
	return Screen{terminal: ok && isatty.IsTerminal(f.Fd()), colours: StyleOf(w).on}
}

const reset = "\x1b[0m"

// Shown is a line as it may be written there: to a terminal with colours and
// styles but for concealed text, and nothing else that is not text. What the line
// overwrites is gone, as a terminal that did all of it would show it in the end.
// Colours end with the line: what stands below may be somebody else's.
func (s Screen) Shown(line string) string {
	if !s.terminal {
		return line
	}
	line = strings.TrimRight(line, "\r")
	if moves(line) {
		return s.drawn(line)
	}
	var out strings.Builder
	open := false // a colour or style goes on
	for line != "" {
		var text, sequence string
		text, sequence, line = cut(line)
		out.WriteString(strings.Map(shown, text))
		if style := s.style(sequence); style != "" {
			open = style != reset && style != "\x1b[m"
			out.WriteString(style)
		}
	}
	if open {
		out.WriteString(reset)
	}
	return out.String()
}

// Lines writes there what comes in pieces, line by line. What is left at the end is
// written by end.
func (s Screen) Lines(w io.Writer) (lines io.Writer, end func() error) {
	if !s.terminal {
		return w, func() error { return nil }
	}
	l := &lineWriter{screen: s, to: w}
	return l, l.end
}

// maxBegun is how much of a line is kept until it ends; the log has none that is longer.
const maxBegun = 256 << 10

type lineWriter struct {
	screen Screen
	to     io.Writer
	begun  []byte
}

func (l *lineWriter) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		line, rest, whole := bytes.Cut(b, []byte("\n"))
		l.begun, b = append(l.begun, line...), rest
		if !whole && len(l.begun) < maxBegun {
			break
		}
		if _, err := fmt.Fprintln(l.to, l.screen.Shown(string(l.begun))); err != nil {
			return 0, err
		}
		l.begun = l.begun[:0]
	}
	return n, nil
}

func (l *lineWriter) end() error {
	_, err := io.WriteString(l.to, l.screen.Shown(string(l.begun)))
	l.begun = nil
	return err
}

// JSON writes there what an encoder of JSON does, which leaves some of the characters
// that control a terminal as they are: those of eight bits, and DEL.
func (s Screen) JSON(w io.Writer) io.Writer {
	if !s.terminal {
		return w
	}
	return jsonWriter{w}
}

type jsonWriter struct{ to io.Writer }

// Write takes whole values.
func (j jsonWriter) Write(b []byte) (int, error) {
	out := make([]byte, 0, len(b))
	for rest := b; len(rest) > 0; {
		r, size := utf8.DecodeRune(rest)
		if r >= 0x7f && unicode.IsControl(r) {
			out = fmt.Appendf(out, `\u%04x`, r)
		} else {
			out = append(out, rest[:size]...)
		}
		rest = rest[size:]
	}
	if _, err := j.to.Write(out); err != nil {
		return 0, err
	}
	return len(b), nil
}

// style is what a terminal there gets of a sequence.
func (s Screen) style(sequence string) string {
	if !s.colours {
		return ""
	}
	return styleOf(sequence)
}

// shown is what stands for a character; what controls a terminal has no place in the line.
func shown(r rune) rune {
	switch {
	case visible(r):
		return r
	case unicode.IsControl(r):
		return -1
	}
	return ' '
}

// visible tells whether a terminal shows a character and does nothing else. What
// joins letters is part of them; what turns the direction of writing is not.
func visible(r rune) bool {
	const joiner, nonJoiner = '\u200d', '\u200c'
	return r == '\t' || r == joiner || r == nonJoiner || unicode.IsGraphic(r)
}

// What begins a control sequence, in seven bits after ESC and in eight.
const (
	escape = '\x1b'
	csi    = '\u009b'
	text8  = "\u0090\u0098\u009d\u009e\u009f" // DCS, SOS, OSC, PM, APC
	text7  = "PX]^_"
)

func escapes(r rune) bool { return r == escape || r == csi || strings.ContainsRune(text8, r) }

// cut takes from a line the text that it begins with, and what is behind that and is
// none: a control sequence, or a character that moves the cursor.
func cut(line string) (text, sequence, rest string) {
	n := strings.IndexFunc(line, func(r rune) bool { return escapes(r) || r == '\r' || r == '\b' })
	if n < 0 {
		return line, "", ""
	}
	text, line = line[:n], line[n:]
	size := 1
	if line[0] != '\r' && line[0] != '\b' {
		size = escapeLen(line)
	}
	return text, line[:size], line[size:]
}

// escapeLen is how long the control sequence is that a line begins with (ECMA-48,
// 5.3 to 5.6): to the line's end where it has none of its own.
func escapeLen(line string) int {
	first, n := utf8.DecodeRuneInString(line)
	switch {
	case first == csi:
		return controlLen(line, n)
	case first != escape:
		return textLen(line)
	case len(line) > n && line[n] == '[':
		return controlLen(line, n+1)
	case len(line) > n && strings.IndexByte(text7, line[n]) >= 0:
		return textLen(line)
	}
	return finalLen(line, n, '/', '0')
}

// controlLen is that of a sequence with parameters, which begin at n.
func controlLen(line string, n int) int { return finalLen(line, n, '?', '@') }

// finalLen goes on from n past bytes up to last, and one from first on that ends
// the sequence.
func finalLen(line string, n int, last, first byte) int {
	for n < len(line) && line[n] >= ' ' && line[n] <= last {
		n++
	}
	if n < len(line) && line[n] >= first && line[n] <= '~' {
		n++
	}
	return n
}

// textLen is that of a text for the terminal: up to BEL, or its string terminator, or
// to where another sequence or a cancellation breaks it off.
func textLen(line string) int {
	const begin = 2 // ESC and a letter, or one of text8 in UTF-8
	n := strings.IndexAny(line[begin:], "\a\x18\x1a\x1b\u009c")
	if n < 0 {
		return len(line)
	}
	n += begin
	switch {
	case strings.HasPrefix(line[n:], "\x1b\\"):
		return n + 2
	case line[n] == escape:
		return n
	}
	_, size := utf8.DecodeRuneInString(line[n:])
	return n + size
}

// styleOf is a sequence that sets colours and styles, without the concealment of
// text; "" for any other.
func styleOf(sequence string) string {
	text, begun := strings.CutPrefix(sequence, "\x1b[")
	text, ended := strings.CutSuffix(text, "m")
	if !begun || !ended || strings.Trim(text, "0123456789;:") != "" {
		return ""
	}
	const conceal = 8
	parameters := strings.Split(text, ";")
	var kept []string
	for i := 0; i < len(parameters); i++ {
		first, _, parts := strings.Cut(parameters[i], ":")
		n, err := strconv.Atoi(first)
		if err == nil && n == conceal {
			continue
		}
		kept = append(kept, parameters[i])
		if err == nil && !parts && (n == 38 || n == 48 || n == 58) { // a colour, told by what follows
			arguments := min(colour(parameters[i+1:]), len(parameters)-i-1)
			kept = append(kept, parameters[i+1:i+1+arguments]...)
			i += arguments
		}
	}
	if len(kept) == 0 {
		return ""
	}
	return "\x1b[" + strings.Join(kept, ";") + "m"
}

// colour is how many parameters tell a colour: its number in a palette, or its
// three parts.
func colour(parameters []string) int {
	switch {
	case len(parameters) > 0 && parameters[0] == "5":
		return 2
	case len(parameters) > 0 && parameters[0] == "2":
		return 4
	}
	return 0
}
