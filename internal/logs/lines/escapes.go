package lines

import (
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Writers of URLs, JSON and XML differ in which characters they escape and how: "/"
// is %2F, %2f or stays, "+" is \u002B, \u002b, \x2b, \+ or stays. To look for every
// mix of these, texts would have to be looked for in a number that doubles with each
// such character. So it is the other way round: what a job wrote is read as a reader
// of that notation would, and secrets are looked for in what comes out. What has no
// escape in it was found already, so only the surroundings of escapes are read again.

// notation is a way to escape.
type notation struct {
	sign byte // what each escape begins with
	most int  // bytes that one has
	plus bool // "+" is a blank
	// read reads the escape that a text begins with: what it stands for, as bytes or
	// one character, and its length. 0: it is none; -1: none yet, it may go on.
	read func(string) (b byte, r rune, n int)
}

// notations are those that are read. All come from programs that jobs use: URLs (as
// forms write them too), strings of JSON and of programming languages and shells, XML.
var notations = [...]notation{
	{sign: '%', most: 3, read: readPercent},
	{sign: '%', most: 3, plus: true, read: readPercent},
	{sign: '\\', most: 12, read: readBackslash},
	{sign: '&', most: 10, read: readEntity},
}

// isSign says which bytes escapes begin with.
var isSign = [256]bool{'%': true, '+': true, '\\': true, '&': true}

// hasSigns says whether something may be escaped.
func hasSigns(text string) bool {
	return strings.IndexByte(text, '%') >= 0 || strings.IndexByte(text, '+') >= 0 || strings.IndexByte(text, '\\') >= 0 || strings.IndexByte(text, '&') >= 0
}

// escape is one in a text: where it stands, and the bytes that it stands for.
type escape struct {
	at, end int
	bytes   [utf8.UTFMax]byte
	n       int
}

// escapes finds those of a text at its signs, and where one begins that the end cuts:
// the text's length if none does.
func (n *notation) escapes(text string, signs []mark, into []escape) (all []escape, rest int) {
	if all = into; n.plus && strings.IndexByte(text, '+') < 0 {
		return all, len(text)
	}
	next := 0
	for _, m := range signs {
		at := m.at
		if at < next || text[at] != n.sign && (!n.plus || text[at] != '+') {
			continue
		}
		e := escape{at: at, end: at + 1}
		if text[at] != n.sign {
			e.bytes[0], e.n = ' ', 1
		} else {
			b, r, size := n.read(text[at:min(len(text), at+n.most)])
			if size < 0 && at+n.most > len(text) {
				return all, at
			}
			if size <= 0 {
				continue
			}
			if e.bytes[0], e.n = b, 1; r != 0 {
				e.n = utf8.EncodeRune(e.bytes[:], r)
			}
			e.end = at + size
		}
		all, next = append(all, e), e.end
	}
	return all, len(text)
}

// mark is the state of a search before a sign.
type mark struct {
	at    int
	state int32
}

// unescape goes on from what a search knew before the signs in a text: it finds
// secrets that have escapes in them, and how many bytes at the end may begin one.
func (a *automaton) unescape(text string, marks []mark, escapes []escape, rest int) (found []span, begun int) {
	state, read := int32(0), -1 // how far the text is read as a whole, -1: not to here
	past := 0                   // where the last escape ends
	before := func(at int) {
		if read == at {
			return
		}
		for len(marks) > 0 && marks[0].at < at {
			marks = marks[1:]
		}
		// Those that began before the last escape have it in them as it is written.
		for state = marks[0].state; int(a.nodes[state].depth) > at-past; {
			state = a.nodes[state].fail
		}
	}
	hit := func(k, to int) {
		if n := int(a.nodes[state].longest); n > 0 {
			found = push(found, span{origin(escapes[:k+1], to, n), to})
		}
	}
	for k, e := range escapes {
		before(e.at)
		for _, b := range e.bytes[:e.n] {
			state = a.step(state, b)
			hit(k, e.end)
		}
		to := rest
		if k+1 < len(escapes) {
			to = escapes[k+1].at
		}
		for past, read = e.end, e.end; read < to && int(a.nodes[state].depth) > read-past; {
			state = a.step(state, text[read])
			read++
			hit(k, read)
		}
	}
	if rest < len(text) {
		before(rest)
	} else if read < rest {
		return found, 0
	}
	// What is cut may go on as anything.
	return found, len(text) - origin(escapes, rest, a.begun(state))
}

// origin is where n bytes began that end at a place behind the last of some escapes.
func origin(escapes []escape, to, n int) int {
	for n > 0 && len(escapes) > 0 {
		e := escapes[len(escapes)-1]
		if plain := to - e.end; plain >= n {
			break
		} else {
			n -= plain + e.n
		}
		to, escapes = e.at, escapes[:len(escapes)-1]
	}
	return to - max(n, 0)
}

// hexadecimal reads digits of a number, none where one is none.
func hexadecimal(text string) (n int, ok bool) {
	for i := range len(text) {
		d := text[i]
		switch {
		case '0' <= d && d <= '9':
			d -= '0'
		case 'a' <= d|0x20 && d|0x20 <= 'f':
			d = d | 0x20 - 'a' + 10
		default:
			return 0, false
		}
		n = n<<4 | int(d)
	}
	return n, text != ""
}

// numbered reads an escape that ends with so many digits behind a head.
func numbered(text string, head, digits int) (n, size int) {
	some := text[min(head, len(text)):min(len(text), head+digits)]
	n, ok := hexadecimal(some)
	switch {
	case !ok && some != "":
		return 0, 0
	case len(some) < digits:
		return 0, -1
	}
	return n, head + digits
}

func readPercent(text string) (b byte, r rune, size int) {
	n, size := numbered(text, 1, 2)
	return byte(n), 0, size
}

// readBackslash reads those of JSON, and of Python, C and shells.
func readBackslash(text string) (b byte, r rune, size int) {
	if len(text) == 1 {
		return 0, 0, -1
	}
	switch c := text[1]; {
	case c == 'u':
		return readUnicode(text)
	case c == 'x':
		n, size := numbered(text, 2, 2)
		return byte(n), 0, size
	case '0' <= c && c <= '3':
		if len(text) < 4 {
			return 0, 0, -1
		}
		n, err := strconv.ParseUint(text[1:4], 8, 8)
		if err != nil {
			return 0, 0, 0
		}
		return byte(n), 0, 4
	case strings.IndexByte("abefnrtv", c) >= 0:
		return "\a\b\x1b\f\n\r\t\v"[strings.IndexByte("abefnrtv", c)], 0, 2
	case c >= ' ' && c < '0' || c > '9' && c < 'A' || c > 'Z' && c < 'a' || c > 'z' && c < 0x7f:
		return c, 0, 2
	}
	return 0, 0, 0
}

// readUnicode reads \uXXXX, and two of them that are one character.
func readUnicode(text string) (b byte, r rune, size int) {
	high, size := numbered(text, 2, 4)
	if size <= 0 {
		return 0, 0, size
	}
	if high == 0 {
		return 0, 0, size
	}
	if !utf16.IsSurrogate(rune(high)) {
		return 0, rune(high), size
	}
	if len(text) < 12 {
		return 0, 0, -1
	}
	low, ok := hexadecimal(text[8:12])
	if r = utf16.DecodeRune(rune(high), rune(low)); !ok || text[6:8] != `\u` || r == utf8.RuneError {
		return 0, utf8.RuneError, size
	}
	return 0, r, 12
}

// entity is what one of those stands for that XML has without a number; 0: it is none.
func entity(name string) byte {
	switch name {
	case "amp":
		return '&'
	case "lt":
		return '<'
	case "gt":
		return '>'
	case "quot":
		return '"'
	case "apos":
		return '\''
	}
	return 0
}

func readEntity(text string) (b byte, r rune, size int) {
	end := strings.IndexByte(text, ';')
	if end < 0 {
		if strings.ContainsAny(text, " \t<>\"'") {
			return 0, 0, 0
		}
		return 0, 0, -1
	}
	name := text[1:end]
	if b := entity(name); b != 0 {
		return b, 0, end + 1
	}
	number, ok := strings.CutPrefix(name, "#")
	if !ok {
		return 0, 0, 0
	}
	base := 10
	if hex, ok := strings.CutPrefix(strings.ToLower(number), "x"); ok {
		number, base = hex, 16
	}
	n, err := strconv.ParseUint(number, base, 21)
	if err != nil || n == 0 {
		return 0, 0, 0
	}
	return 0, rune(n), end + 1
}
