package lines

import (
	"slices"
	"strings"
)

// maxHeld bounds what a veil keeps back.
const maxHeld = 64 << 10

// shownBytes is how much of what was shown a veil knows. The first characters of a
// row that is encoded are shown where the text pauses there, since they may be any
// word (rows.find): what follows may be too short to be found by itself.
const shownBytes = minPiece - 1

// Veil hides secrets in a text that comes in pieces and has no lines, as that of
// a terminal. Not safe for concurrent use.
type Veil struct {
	masks masks
	shown string // the end of what was shown or hidden by now
	held  string // what may be the beginning of a secret
}

// Mask hides a secret from now on; see Splitter.
func (v *Veil) Mask(secret string) bool { return v.masks.add(secret) }

// Write takes a piece and returns what can be shown by now.
func (v *Veil) Write(piece string) string {
	return v.show(v.shown+v.held+piece, v.cut)
}

// Flush returns what was kept back.
func (v *Veil) Flush() string {
	all := v.show(v.shown+v.held, func(text string) int { return len(text) })
	v.shown = "" // what comes is another text
	return all
}

// show returns what of a text was not shown yet, up to a cut.
func (v *Veil) show(text string, cut func(string) int) string {
	was, to := len(v.shown), cut(text)
	shown := v.masks.hideFrom(text[:to], was)
	v.shown, v.held = strings.Clone(text[max(0, to-shownBytes):to]), strings.Clone(text[to:])
	return shown
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
	return max(cut, len(v.shown))
}
