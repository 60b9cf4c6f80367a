package lines

import (
	"slices"
	"strings"
)

// maxHeld bounds what a veil keeps back.
const maxHeld = 64 << 10

// Veil hides secrets in a text that comes in pieces and has no lines, as that of
// a terminal. Not safe for concurrent use.
type Veil struct {
	masks masks
	held  string // what may be the beginning of a secret
}

// Mask hides a secret from now on; see Splitter.
func (v *Veil) Mask(secret string) bool { return v.masks.add(secret) }

// Write takes a piece and returns what can be shown by now.
func (v *Veil) Write(piece string) string {
	text := v.held + piece
	cut := v.cut(text)
	v.held = strings.Clone(text[cut:])
	return v.masks.hide(text[:cut])
}

// Flush returns what was kept back.
func (v *Veil) Flush() string {
	text := v.masks.hide(v.held)
	v.held = ""
	return text
}

// cut is where the part of a text begins that may be the beginning of a secret,
// or belongs to one.
func (v *Veil) cut(text string) int {
	found, begun := v.masks.find(text)
	cut := len(text) - begun
	for _, s := range slices.Backward(found) {
		if s.from < cut && s.to > cut {
			cut = s.from
		}
	}
	if len(text)-cut > maxHeld {
		return len(text)
	}
	return cut
}
