package lines

import (
	"slices"
	"strings"
)

// hidden stands where a secret was.
const hidden = "***"

// minSecret is the shortest text that is hidden: shorter ones are in every
// second line by chance.
const minSecret = 4

const (
	// maxMasks bounds how many secrets are hidden: a job can add more by directive.
	// Registered ones come first and are few.
	maxMasks = 1000
	// maxForms bounds how many bytes all forms of all secrets have, maxFormsOfOne
	// those of one: beyond, only its lines are looked for.
	maxForms      = 2 << 20
	maxFormsOfOne = 256 << 10
	// youngForms is how many bytes of forms are searched for beside the others:
	// where a job has each of many secrets hidden before it goes on, what finds all
	// of them is not made anew each time.
	youngForms = 32 << 10
)

// mostEscaped is how many bytes one is escaped as at most: \u002B, &quot;.
const mostEscaped = 6

// masks is a set of secrets that must not be seen, in no form of theirs.
type masks struct {
	secrets []string
	texts   []string // forms of them
	bytes   int      // of texts
	longest int
	full    bool // one was refused for want of room
	rows    rows
	marks   []mark   // of the text that is searched
	escapes []escape // the same

	old, young *automaton // of texts before settled, and of those after; nil: none, or to be made
	settled    int
	youngBytes int // of texts after settled
}

// add hides a secret from now on. It returns false for one that is too short to be
// told from ordinary text, and where there are too many.
func (m *masks) add(secret string) bool {
	if slices.Contains(m.secrets, secret) {
		return true
	}
	of := forms(secret)
	if len(of) == 0 {
		return false
	}
	size := total(of)
	if size > maxFormsOfOne {
		of = linesOf(secret)
		size = total(of)
	}
	if len(m.secrets) >= maxMasks || m.bytes+size > maxForms {
		m.full = true
		return false
	}
	m.secrets = append(m.secrets, secret)
	m.texts = append(m.texts, of...)
	m.bytes += size
	for _, text := range of {
		m.longest = max(m.longest, len(text))
	}
	m.longest = max(m.longest, mostEscaped*len(secret))
	m.rows.add(strings.TrimRight(secret, "\r\n"))
	m.young, m.youngBytes = nil, m.youngBytes+size // made when it is needed: many are added at once
	return true
}

func total(texts []string) (size int) {
	for _, text := range texts {
		size += len(text)
	}
	return size
}

func (m *masks) list() []string { return slices.Clone(m.secrets) }

// span is where a secret stands in a text.
type span struct{ from, to int }

// prepare makes what texts are searched with.
func (m *masks) prepare() {
	if m.young != nil || m.settled == len(m.texts) {
		return
	}
	if m.youngBytes > youngForms {
		m.old, m.settled, m.youngBytes = newAutomaton(m.texts), len(m.texts), 0
		return
	}
	m.young = newAutomaton(m.texts[m.settled:])
}

// find returns where secrets stand, overlapping ones as one, and how many bytes at
// the end of the text may be the beginning of one.
func (m *masks) find(text string) (found []span, begun int) {
	m.prepare()
	signs := hasSigns(text)
	for _, search := range []*automaton{m.old, m.young} {
		if search == nil {
			continue
		}
		m.marks = m.marks[:0]
		at := int32(0)
		var in []span
		for i := range len(text) {
			if signs && isSign[text[i]] {
				m.marks = append(m.marks, mark{i, at})
			}
			if at = search.step(at, text[i]); at == 0 {
				continue
			}
			if n := int(search.nodes[at].longest); n > 0 {
				in = push(in, span{i + 1 - n, i + 1})
			}
		}
		found, begun = merge(found, in), max(begun, search.begun(at))
		for i := range notations {
			if !signs {
				break
			}
			escapes, rest := notations[i].escapes(text, m.marks, m.escapes[:0])
			if m.escapes = escapes; len(escapes) > 0 || rest < len(text) {
				in, some := search.unescape(text, m.marks, escapes, rest)
				found, begun = merge(found, in), max(begun, some)
			}
		}
	}
	in, some := m.rows.find(text)
	return merge(found, in), max(begun, some)
}

// merge makes one list of two.
func merge(a, b []span) []span {
	if len(a) == 0 {
		return b
	}
	var out []span
	for len(a) > 0 || len(b) > 0 {
		if len(b) == 0 || len(a) > 0 && a[0].to <= b[0].to {
			out, a = push(out, a[0]), a[1:]
		} else {
			out, b = push(out, b[0]), b[1:]
		}
	}
	return out
}

// push adds a span that does not end before the others to them.
func push(found []span, s span) []span {
	for n := len(found); n > 0 && found[n-1].to > s.from; n-- {
		s.from = min(s.from, found[n-1].from)
		found = found[:n-1]
	}
	return append(found, s)
}

// hide replaces every secret in a text.
func (m *masks) hide(text string) string { return m.hideFrom(text, 0) }

// hideFrom returns a text from there on, with every secret replaced that stands there
// or reaches there.
func (m *masks) hideFrom(text string, at int) string {
	found, _ := m.find(text)
	for len(found) > 0 && found[0].to <= at {
		found = found[1:]
	}
	if len(found) == 0 {
		return text[at:]
	}
	var b strings.Builder
	for _, s := range found {
		b.WriteString(text[at:max(at, s.from)])
		b.WriteString(hidden)
		at = s.to
	}
	b.WriteString(text[at:])
	return b.String()
}

// safeCut returns where a text can be cut, near n, without cutting a secret
// that stands there or may be about to.
func (m *masks) safeCut(text string, n int) int {
	found, _ := m.find(text)
	for _, s := range found {
		if s.from < n && s.to > n {
			return s.to
		}
	}
	return n
}
