package lines

import (
	"encoding/base64"
	"encoding/hex"
	"strings"
)

// Programs that encode break their lines where they like: base64(1) after 76
// characters or what -w says, openssl after 64, xxd after 60. With something before
// the secret, each row has another piece of it. So of what a secret is encoded as,
// every piece is looked for that is long enough to be no other text by chance: of
// its windows of window bytes some are kept, every keepEach-th, and of a text those
// looked up that begin at every lookEach-th byte. As the two have no factor in common,
// any piece with keepEach*lookEach windows in a row has one that is kept and looked
// up. What it belongs to is found by going on from there to both sides.
const (
	window   = 8
	keepEach = 3
	lookEach = 2
	// minPiece is the shortest piece that is found, and the shortest that is hidden.
	minPiece = window + keepEach*lookEach
	// maxWindows bounds how many of all secrets are kept: of some 96 KiB of them.
	// Pieces of later ones are not looked for.
	maxWindows = 256 << 10
	// maxAlike is how many windows that are the same are told apart.
	maxAlike = 4
)

// rows finds pieces of what secrets are encoded as.
type rows struct {
	texts  []string // what secrets are encoded as
	places []place
	first  map[uint64]int32 // of a window: its place, numbered from 1
	// may says of windows, by a few of their bits, whether there are some: most are
	// none, and are then not looked up.
	may []uint64
}

// place is where a window stands.
type place struct {
	text, at int32
	next     int32 // another of the same window; 0: there is none
}

// add has pieces of a secret be found, unless there is no more room.
func (r *rows) add(secret string) {
	var texts []string
	for before := range 3 {
		encoded := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("\x00", before) + secret))
		texts = append(texts, encoded[(before*8+5)/6:(before+len(secret))*8/6])
	}
	lower := hex.EncodeToString([]byte(secret))
	texts = append(texts, lower, strings.ToUpper(lower))
	if len(r.places)+total(texts)/keepEach > maxWindows {
		return
	}
	if r.first == nil {
		r.first = map[uint64]int32{}
	}
	for _, text := range texts {
		if len(text) < minPiece {
			continue
		}
		r.texts = append(r.texts, text)
		for at := 0; at+window <= len(text); at += keepEach {
			r.keep(windowAt(text, at), place{text: int32(len(r.texts) - 1), at: int32(at)})
		}
	}
}

func (r *rows) keep(w uint64, p place) {
	alike := 0
	for n := r.first[w]; n != 0; n = r.places[n-1].next {
		if alike++; alike == maxAlike {
			return
		}
	}
	p.next = r.first[w]
	r.places = append(r.places, p)
	r.first[w] = int32(len(r.places))
	r.mark(w)
}

// mark says that there is such a window. What says so grows with their number: 16
// bits for each at least.
func (r *rows) mark(w uint64) {
	if len(r.may)*4 >= len(r.places) {
		h := hashOf(w)
		r.may[h>>6&uint64(len(r.may)-1)] |= 1 << (h & 63)
		return
	}
	r.may = make([]uint64, max(64, 2*len(r.may)))
	for each := range r.first {
		r.mark(each)
	}
}

// hashOf spreads a window's bits: Knuth's multiplication, of which the upper ones
// are good.
func hashOf(w uint64) uint64 { return w * 0x9e3779b97f4a7c15 >> 32 }

// windowAt is a window of a text. base64's two alphabets are one.
func windowAt(text string, at int) (w uint64) {
	for i := range window {
		w = w<<8 | uint64(coded[text[at+i]])
	}
	return w
}

// coded is what bytes are as characters of base64 or hex; 0: they are none.
var coded = func() (all [256]byte) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/") {
		all[c] = c
	}
	all['-'], all['_'] = '+', '/'
	return all
}()

// find returns where pieces stand, and how many bytes at the end of the text are one
// that may go on. Of fewer than window+keepEach-1 that is not told: every second word
// that is typed begins as some piece does.
func (r *rows) find(text string) (found []span, begun int) {
	if len(r.first) == 0 {
		return nil, 0
	}
	for at := 0; at+window <= len(text); {
		// From the end of what must be one run: most texts have a blank there.
		run := at + window - 1
		for run >= at && coded[text[run]] != 0 {
			run--
		}
		if run >= at {
			at = run + 1
			continue
		}
		end := at + window
		for end < len(text) && coded[text[end]] != 0 {
			end++
		}
		found, begun = r.inRun(text, at, end, found)
		at = end + 1
	}
	return found, begun
}

// inRun looks through a run of characters that are base64's.
func (r *rows) inRun(text string, from, end int, found []span) (_ []span, begun int) {
	if end-from < minPiece && end < len(text) {
		return found, 0
	}
	w, have := uint64(0), -1
	for at := from; at+window <= end; {
		if have == at {
			w = w<<16 | uint64(coded[text[at+window-2]])<<8 | uint64(coded[text[at+window-1]])
		} else {
			w = windowAt(text, at)
		}
		have = at + lookEach
		if !r.maybe(w) {
			at += lookEach
			continue
		}
		piece := r.piece(text, w, at, from, end)
		if piece.to-piece.from < minPiece {
			at += lookEach
			continue
		}
		if n := len(found); n > 0 && found[n-1].to > piece.to {
			piece.to = found[n-1].to // it is a part of what was found
		}
		found = push(found, piece)
		at += max(lookEach, (piece.to-window-at)/lookEach*lookEach)
	}
	if end < len(text) {
		return found, 0
	}
	// One of keepEach windows in a row is kept.
	for at := end - window; at >= max(from, end-window-keepEach+1); at-- {
		if w := windowAt(text, at); r.maybe(w) {
			if piece := r.piece(text, w, at, from, end); piece.to == end {
				begun = max(begun, end-piece.from)
			}
		}
	}
	return found, begun
}

// maybe says that a window may be kept: most are not.
func (r *rows) maybe(w uint64) bool {
	h := hashOf(w)
	return r.may[h>>6&uint64(len(r.may)-1)]&(1<<(h&63)) != 0
}

// piece is the longest part of a run, around a window, that a secret is encoded as.
func (r *rows) piece(text string, w uint64, at, from, end int) (longest span) {
	for n := r.first[w]; n != 0; n = r.places[n-1].next {
		p := r.places[n-1]
		of := r.texts[p.text]
		s, left := span{at, at}, int(p.at)
		for s.from > from && left > 0 && coded[text[s.from-1]] == of[left-1] {
			s.from, left = s.from-1, left-1
		}
		for right := int(p.at); s.to < end && right < len(of) && coded[text[s.to]] == of[right]; right++ {
			s.to++
		}
		if s.to-s.from > longest.to-longest.from {
			longest = s
		}
	}
	return longest
}
