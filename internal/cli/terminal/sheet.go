package terminal

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// maxMoved is how far right a cursor is moved without anything being written.
	maxMoved = 500
	// maxTouched is how many cells a line's cursor may fill or erase; from then on it
	// is not moved any more.
	maxTouched = 500_000
	// maxJoined is how many bytes may be one character.
	maxJoined = 64
)

// sheet is a line as it is written by a cursor that moves in it. Where a program moves
// it to other lines, the text stays in its own. The dashboard draws lines by the same
// rules (web/src/log/terminal.ts).
type sheet struct {
	cells   []cell
	column  int
	touched int
	pen     pen
	style   string // the sequence that makes it
}

// cell is a character, with what is joined to it; "" for the right half of a wide one.
type cell struct{ text, style string }

// move is what a sequence does to the cursor, or erases.
type move struct {
	what rune
	n    int // its parameter, 0 for none
}

// moveOf reads a sequence.
func moveOf(sequence string) (move, bool) {
	switch sequence {
	case "":
		return move{}, false
	case "\r":
		return move{'G', 1}, true
	case "\b":
		return move{'D', 1}, true
	}
	body, ok := strings.CutPrefix(sequence, "\x1b[")
	if !ok {
		if body, ok = strings.CutPrefix(sequence, string(csi)); !ok {
			return move{}, false
		}
	}
	if body == "" || !strings.ContainsRune("CaDG`K", rune(body[len(body)-1])) || strings.Trim(body[:len(body)-1], "0123456789;:") != "" {
		return move{}, false
	}
	digits, _, _ := strings.Cut(body[:len(body)-1], ";")
	n, err := strconv.Atoi(digits)
	if err != nil && digits != "" {
		n = 1 << 16 // it is a large one
	}
	return move{rune(body[len(body)-1]), min(n, 1<<16)}, true
}

// moves tells whether a line has to be drawn: to erase what is right of its end
// changes nothing, and programs that colour do so.
func moves(line string) bool {
	for line != "" {
		var sequence string
		_, sequence, line = cut(line)
		if m, ok := moveOf(sequence); ok && m != (move{'K', 0}) {
			return true
		}
	}
	return false
}

// drawn is what a line's cursor leaves.
func (s Screen) drawn(line string) string {
	var sh sheet
	for line != "" {
		var text, sequence string
		text, sequence, line = cut(line)
		for _, r := range text {
			if r = shown(r); r >= 0 {
				sh.write(r)
			}
		}
		if m, ok := moveOf(sequence); ok {
			sh.move(m)
		} else if style := s.style(sequence); style != "" {
			sh.pen.take(style)
			sh.style = sh.pen.sequence()
		}
	}
	return sh.text()
}

func (s *sheet) move(m move) {
	switch m.what {
	case 'K':
		s.erase(m.n)
	case 'C', 'a':
		s.to(s.column + max(1, m.n))
	case 'D':
		s.to(s.column - max(1, m.n))
	default:
		s.to(max(1, m.n) - 1)
	}
}

// to moves the cursor. A job that has had its fill writes on at the line's end.
func (s *sheet) to(column int) {
	if s.touched > maxTouched {
		s.column = len(s.cells)
		return
	}
	s.column = min(max(0, column), max(len(s.cells), maxMoved))
}

// erase is of what is to the line's end (0), from its start (1), or all of it (2).
func (s *sheet) erase(what int) {
	switch {
	case s.touched > maxTouched:
	case what == 0:
		s.halve(s.column)
		s.cells = s.cells[:min(len(s.cells), s.column)]
	case what == 1:
		s.halve(s.column + 1)
		for i := range min(s.column+1, len(s.cells)) {
			s.cells[i] = cell{text: " "}
			s.touched++
		}
	case what == 2:
		s.cells = s.cells[:0]
	}
}

func (s *sheet) write(r rune) {
	if r == '\t' {
		s.column = min((s.column/8+1)*8, max(s.column+1, len(s.cells), maxMoved))
		return
	}
	if s.join(r) {
		return
	}
	for ; len(s.cells) < s.column; s.touched++ {
		s.cells = append(s.cells, cell{text: " "})
	}
	s.put(cell{string(r), s.style})
	if unicode.Is(wide, r) {
		s.put(cell{"", s.style})
	}
}

// put writes a cell, and leaves no half of a wide character beside it.
func (s *sheet) put(c cell) {
	if c.text != "" {
		s.halve(s.column)
	}
	s.halve(s.column + 1)
	if s.column < len(s.cells) {
		s.cells[s.column] = c
	} else {
		s.cells = append(s.cells, c)
	}
	s.column++
}

// join adds what is drawn over the character before it.
func (s *sheet) join(r rune) bool {
	const joiner, nonJoiner = '\u200d', '\u200c'
	at := s.column - 1
	if at > 0 && at < len(s.cells) && s.cells[at].text == "" {
		at--
	}
	if at < 0 || at >= len(s.cells) {
		return false
	}
	before := &s.cells[at]
	modifier := r >= 0x1f3fb && r <= 0x1f3ff
	if !unicode.Is(unicode.M, r) && r != joiner && r != nonJoiner && !modifier && !strings.HasSuffix(before.text, string(joiner)) {
		return false
	}
	if len(before.text)+utf8.RuneLen(r) <= maxJoined {
		before.text += string(r)
	}
	return true
}

// halve leaves neither half of a wide character that has a border in its midst.
func (s *sheet) halve(border int) {
	if border > 0 && border < len(s.cells) && s.cells[border].text == "" {
		s.cells[border-1], s.cells[border] = cell{text: " "}, cell{text: " "}
	}
}

// text is what was written, without blanks at its end.
func (s *sheet) text() string {
	end := len(s.cells)
	for end > 0 && s.cells[end-1] == (cell{text: " "}) {
		end--
	}
	var out strings.Builder
	style := ""
	for _, c := range s.cells[:end] {
		if c.style != style && c.text != "" {
			if style != "" {
				out.WriteString(reset)
			}
			out.WriteString(c.style)
			style = c.style
		}
		out.WriteString(c.text)
	}
	if style != "" {
		out.WriteString(reset)
	}
	return out.String()
}

// wide are the characters that a terminal draws two columns wide (UAX #11).
var wide = &unicode.RangeTable{
	R16: []unicode.Range16{
		{0x1100, 0x115f, 1}, {0x231a, 0x231b, 1}, {0x23e9, 0x23ec, 1}, {0x23f0, 0x23f3, 3}, {0x25fd, 0x25fe, 1}, {0x2614, 0x2615, 1},
		{0x2648, 0x2653, 1}, {0x267f, 0x2693, 20}, {0x26a1, 0x26aa, 9}, {0x26ab, 0x26bd, 18}, {0x26be, 0x26c4, 6}, {0x26c5, 0x26ce, 9},
		{0x26d4, 0x26ea, 22}, {0x26f2, 0x26f3, 1}, {0x26f5, 0x26fa, 5}, {0x26fd, 0x2705, 8}, {0x270a, 0x270b, 1}, {0x2728, 0x274c, 36},
		{0x274e, 0x2753, 5}, {0x2754, 0x2755, 1}, {0x2757, 0x2757, 1}, {0x2795, 0x2797, 1}, {0x27b0, 0x27bf, 15}, {0x2b1b, 0x2b1c, 1},
		{0x2b50, 0x2b55, 5}, {0x2e80, 0x303e, 1}, {0x3041, 0xa4cf, 1}, {0xa960, 0xa97c, 1}, {0xac00, 0xd7a3, 1}, {0xf900, 0xfaff, 1},
		{0xfe30, 0xfe6f, 1}, {0xff01, 0xff60, 1}, {0xffe0, 0xffe6, 1},
	},
	R32: []unicode.Range32{
		{0x1f004, 0x1f0cf, 203}, {0x1f18e, 0x1f18e, 1}, {0x1f191, 0x1f19a, 1}, {0x1f300, 0x1f320, 1}, {0x1f32d, 0x1f335, 1}, {0x1f337, 0x1f37c, 1},
		{0x1f37e, 0x1f393, 1}, {0x1f3a0, 0x1f3ca, 1}, {0x1f3cf, 0x1f3d3, 1}, {0x1f3e0, 0x1f3f0, 1}, {0x1f3f4, 0x1f3f8, 4}, {0x1f3f9, 0x1f43e, 1},
		{0x1f440, 0x1f442, 2}, {0x1f443, 0x1f4fc, 1}, {0x1f4ff, 0x1f53d, 1}, {0x1f54b, 0x1f54e, 1}, {0x1f550, 0x1f567, 1}, {0x1f57a, 0x1f595, 27},
		{0x1f596, 0x1f5a4, 14}, {0x1f5fb, 0x1f64f, 1}, {0x1f680, 0x1f6c5, 1}, {0x1f6cc, 0x1f6d0, 4}, {0x1f6d1, 0x1f6d2, 1}, {0x1f6d5, 0x1f6d7, 1},
		{0x1f6dc, 0x1f6df, 1}, {0x1f6eb, 0x1f6ec, 1}, {0x1f6f4, 0x1f6fc, 1}, {0x1f7e0, 0x1f7eb, 1}, {0x1f90c, 0x1f93a, 1}, {0x1f93c, 0x1f945, 1},
		{0x1f947, 0x1f9ff, 1}, {0x1fa70, 0x1faff, 1}, {0x20000, 0x3fffd, 1},
	},
}
