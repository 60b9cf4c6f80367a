package dnsguard

import (
	"cmp"
	"slices"
	"strings"
	"sync"
)

// maxRefused bounds the names that are remembered: they are the tenant's
// choice. Questions for others are counted together.
const maxRefused = 64

// Refusal is a name that was asked for in vain.
type Refusal struct {
	Name  string // "" for all that there was no room to remember
	Why   string
	Count uint64
}

// tally counts refusals.
type tally struct {
	mu    sync.Mutex
	names map[string]*Refusal
	more  uint64
}

func (t *tally) add(name, why string) {
	name = strings.Map(plain, name)
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.names[name]; r != nil {
		r.Count++
		return
	}
	if len(t.names) == maxRefused {
		t.more++
		return
	}
	if t.names == nil {
		t.names = map[string]*Refusal{}
	}
	t.names[name] = &Refusal{Name: name, Why: why, Count: 1}
}

// list is what was counted, the most frequent first.
func (t *tally) list() []Refusal {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]Refusal, 0, len(t.names)+1)
	for _, r := range t.names {
		out = append(out, *r)
	}
	slices.SortFunc(out, func(a, b Refusal) int { return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Name, b.Name)) })
	if t.more > 0 {
		out = append(out, Refusal{Count: t.more})
	}
	return out
}

// plain keeps what a log can show of a name: DNS allows any byte in it.
func plain(r rune) rune {
	if r > ' ' && r < 0x7f {
		return r
	}
	return '?'
}
