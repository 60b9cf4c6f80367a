package terminal

import (
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

// Shown is a line as it may be written there: to a terminal with colours and
// styles but for concealed text, and nothing else that is not text. They end with the
// line: what stands below may be somebody else's.
func (s Screen) Shown(line string) string {
	if !s.terminal {
		return line
	}
	const reset = "\x1b[0m"
	var out strings.Builder
	open := false // a colour or style goes on
	for line != "" {
		n := strings.IndexFunc(line, escapes)
		if n < 0 {
			n = len(line)
		}
		out.WriteString(strings.Map(shown, line[:n]))
		if line = line[n:]; line == "" {
			break
		}
		sequence := line[:escapeLen(line)]
		if s.colours {
			if style := styleOf(sequence); style != "" {
				open = style != reset && style != "\x1b[m"
				out.WriteString(style)
			}
		}
		line = line[len(sequence):]
	}
	if open {
		out.WriteString(reset)
	}
	return out.String()
}

func shown(r rune) rune {
	if visible(r) {
		return r
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

// textLen is that of a text for the terminal: up to BEL, or its string terminator.
func textLen(line string) int {
	end := len(line)
	for _, stop := range []string{"\a", "\x1b\\", "\u009c"} {
		if i := strings.Index(line, stop); i >= 0 {
			end = min(end, i+len(stop))
		}
	}
	return end
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
