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

// maxMasks bounds how many texts are hidden: a job can add more by directive,
// they are then not hidden. Registered secrets come first and are few.
const maxMasks = 1000

// masks is a set of texts that must not be seen.
type masks struct {
	secrets []string // longest first, so that one inside another stays hidden
	longest int
}

// add hides a secret; of one with several lines each line, since that is how
// it would be printed.
func (m *masks) add(secret string) bool {
	added := false
	for part := range strings.Lines(secret) {
		part = strings.TrimRight(part, "\r\n")
		if len(strings.TrimSpace(part)) < minSecret || len(m.secrets) >= maxMasks {
			continue
		}
		added = true
		if slices.Contains(m.secrets, part) {
			continue
		}
		m.secrets = append(m.secrets, part)
		slices.SortStableFunc(m.secrets, func(a, b string) int { return len(b) - len(a) })
		m.longest = max(m.longest, len(part))
	}
	return added
}

func (m *masks) list() []string { return slices.Clone(m.secrets) }

// span is where a secret stands in a text.
type span struct{ from, to int }

// find returns where secrets stand, overlapping ones as one.
func (m *masks) find(text string) []span {
	var found []span
	for _, secret := range m.secrets {
		for at := 0; ; {
			i := strings.Index(text[at:], secret)
			if i < 0 {
				break
			}
			found = append(found, span{at + i, at + i + len(secret)})
			at += i + 1
		}
	}
	slices.SortFunc(found, func(a, b span) int { return a.from - b.from })
	merged := found[:0]
	for _, s := range found {
		if n := len(merged); n > 0 && s.from < merged[n-1].to {
			merged[n-1].to = max(merged[n-1].to, s.to)
			continue
		}
		merged = append(merged, s)
	}
	return merged
}

// hide replaces every secret in a text.
func (m *masks) hide(text string) string {
	found := m.find(text)
	if len(found) == 0 {
		return text
	}
	var b strings.Builder
	at := 0
	for _, s := range found {
		b.WriteString(text[at:s.from])
		b.WriteString(hidden)
		at = s.to
	}
	b.WriteString(text[at:])
	return b.String()
}

// safeCut returns where a text can be cut, near n, without cutting a secret
// that stands there or may be about to.
func (m *masks) safeCut(text string, n int) int {
	for _, s := range m.find(text) {
		if s.from < n && s.to > n {
			return s.to
		}
	}
	return n
}
