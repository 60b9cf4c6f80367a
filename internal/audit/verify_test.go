package audit

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/nimbus-ci/nimbus"
)

// ledgerOf is a ledger with a key of its own and no store.
func ledgerOf() *Ledger {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return &Ledger{key: key}
}

// history is one chain as a source tells it.
type history struct {
	org         string
	entries     []nimbus.AuditEntry
	checkpoints []nimbus.AuditCheckpoint
}

// grow adds a batch of events to the chain.
func (h *history) grow(l *Ledger, events ...nimbus.AuditEvent) {
	batch := make([]nimbus.AuditEntry, len(events))
	at := time.Unix(1_700_000_000+int64(len(h.entries)), 123_000).UTC()
	for i, e := range events {
		e.OrgID = h.org
		batch[i] = nimbus.AuditEntry{AuditEvent: e, ID: nimbus.NewID(nimbus.PrefixAudit, at), At: at}
	}
	heads := map[string]Head{}
	if n := len(h.entries); n > 0 {
		heads[h.org] = Head{h.entries[n-1].Seq, h.entries[n-1].Hash}
	}
	entries, checkpoints := l.link(at, heads, batch)
	h.entries, h.checkpoints = append(h.entries, entries...), append(h.checkpoints, checkpoints...)
}

func (h *history) Entries(_ context.Context, page nimbus.PageRequest) ([]nimbus.AuditEntry, string, error) {
	return paged(h.entries, page, func(e nimbus.AuditEntry) int64 { return e.Seq })
}

func (h *history) Checkpoints(_ context.Context, page nimbus.PageRequest) ([]nimbus.AuditCheckpoint, string, error) {
	return paged(h.checkpoints, page, func(c nimbus.AuditCheckpoint) int64 { return c.Seq })
}

// paged lists three at a time, in whatever order things are in.
func paged[T any](all []T, page nimbus.PageRequest, seq func(T) int64) ([]T, string, error) {
	from := 0
	if page.Token != "" {
		from = slices.IndexFunc(all, func(v T) bool { return token(seq(v)) == page.Token }) + 1
	}
	to := min(from+3, len(all))
	if to == len(all) {
		return all[from:to], "", nil
	}
	return all[from:to], token(seq(all[to-1])), nil
}

// verify verifies the chain as it is listed, and what is read of its export.
func (h *history) verify(key ed25519.PublicKey, kept ...nimbus.AuditCheckpoint) error {
	listed, err := h.verifier(key, kept)
	if err != nil {
		return err
	}
	if err := h.end(listed, Walk(context.Background(), h, listed)); err != nil {
		return err
	}
	read, err := h.verifier(key, kept)
	if err != nil {
		return err
	}
	var export bytes.Buffer
	err = Walk(context.Background(), h, NewWriter(&export))
	if err == nil && export.Len() > 0 {
		err = Read(&export, func(string) Sink { return read })
	}
	return h.end(read, err)
}

func (h *history) verifier(key ed25519.PublicKey, kept []nimbus.AuditCheckpoint) (*Verifier, error) {
	v := NewVerifier(h.org, key)
	for _, c := range kept {
		if err := v.Expect(c); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// end also tells whether all of the chain was verified.
func (h *history) end(v *Verifier, err error) error {
	entries, checkpoints, ended := v.End()
	switch {
	case err != nil:
		return err
	case ended == nil && (int(entries) != len(h.entries) || int(checkpoints) != len(h.checkpoints)):
		return fmt.Errorf("%d entries and %d checkpoints were verified of %d and %d", entries, checkpoints, len(h.entries), len(h.checkpoints))
	}
	return ended
}

func drawEvent(t *rapid.T) nimbus.AuditEvent {
	word := rapid.StringOf(rapid.RuneFrom([]rune("abé:\"\\\u2028 <"))) // no NUL: the store holds none
	return nimbus.AuditEvent{
		Actor: word.Draw(t, "actor"), Action: word.Draw(t, "action"), Target: word.Draw(t, "target"),
		Outcome: rapid.SampledFrom([]nimbus.AuditOutcome{nimbus.AuditAllowed, nimbus.AuditDenied}).Draw(t, "outcome"),
		Detail:  rapid.MapOfN(word, word, 0, 3).Draw(t, "detail"), Count: rapid.Int64Range(1, 1e9).Draw(t, "count"),
	}
}

func drawHistory(t *rapid.T, l *Ledger, org string) *history {
	h := &history{org: org}
	for range rapid.IntRange(1, 4).Draw(t, "batches") {
		h.grow(l, rapid.SliceOfN(rapid.Custom(drawEvent), 1, 4).Draw(t, "events")...)
	}
	return h
}

// entryFields changes one field each.
var entryFields = map[string]func(*nimbus.AuditEntry){
	"org":           func(e *nimbus.AuditEntry) { e.OrgID += "x" },
	"seq":           func(e *nimbus.AuditEntry) { e.Seq++ },
	"id":            func(e *nimbus.AuditEntry) { e.ID += "x" },
	"at":            func(e *nimbus.AuditEntry) { e.At = e.At.Add(time.Nanosecond) },
	"actor":         func(e *nimbus.AuditEntry) { e.Actor += "x" },
	"action":        func(e *nimbus.AuditEntry) { e.Action += "x" },
	"target":        func(e *nimbus.AuditEntry) { e.Target += "x" },
	"outcome":       func(e *nimbus.AuditEntry) { e.Outcome += "x" },
	"count":         func(e *nimbus.AuditEntry) { e.Count-- },
	"previous hash": func(e *nimbus.AuditEntry) { e.Prev[7] ^= 1 },
	"hash":          func(e *nimbus.AuditEntry) { e.Hash[7] ^= 1 },
	"detail": func(e *nimbus.AuditEntry) {
		e.Detail = maps.Clone(e.Detail)
		if e.Detail == nil {
			e.Detail = map[string]string{}
		}
		e.Detail["more"] += "x"
	},
	// The same letters in other fields.
	"shifted": func(e *nimbus.AuditEntry) { e.Actor, e.Action = e.Actor+e.Action, "" },
}

// checkpointFields does the same.
var checkpointFields = map[string]func(*nimbus.AuditCheckpoint){
	"org":       func(c *nimbus.AuditCheckpoint) { c.OrgID += "x" },
	"seq":       func(c *nimbus.AuditCheckpoint) { c.Seq++ },
	"prev":      func(c *nimbus.AuditCheckpoint) { c.Prev++ },
	"no prev":   func(c *nimbus.AuditCheckpoint) { c.Prev = nimbus.AuditNoPrev },
	"hash":      func(c *nimbus.AuditCheckpoint) { c.Hash[7] ^= 1 },
	"at":        func(c *nimbus.AuditCheckpoint) { c.At = c.At.Add(time.Microsecond) },
	"signature": func(c *nimbus.AuditCheckpoint) { c.Signature = slices.Clone(c.Signature); c.Signature[7] ^= 1 },
}

// TestWhateverIsDoneToAChainIsFound: each field of each entry and checkpoint
// changed, entries removed in the middle and at the end, swapped, repeated,
// added, checkpoints removed at the end and forged with another key.
func TestWhateverIsDoneToAChainIsFound(t *testing.T) {
	t.Parallel()
	l, stranger := ledgerOf(), ledgerOf()
	tampering := map[string]func(*rapid.T, *history){
		"remove the last entries": func(t *rapid.T, h *history) {
			h.entries = h.entries[:rapid.IntRange(0, len(h.entries)-1).Draw(t, "left")]
		},
		"remove one before the last": func(t *rapid.T, h *history) {
			i := rapid.IntRange(0, max(0, len(h.entries)-2)).Draw(t, "which")
			h.entries = slices.Delete(h.entries, i, i+1)
		},
		"swap two": func(t *rapid.T, h *history) {
			if len(h.entries) < 2 {
				t.Skip()
			}
			i := rapid.IntRange(0, len(h.entries)-2).Draw(t, "which")
			h.entries[i], h.entries[i+1] = h.entries[i+1], h.entries[i]
		},
		"swap two and number them anew": func(t *rapid.T, h *history) {
			if len(h.entries) < 2 {
				t.Skip()
			}
			i := rapid.IntRange(0, len(h.entries)-2).Draw(t, "which")
			a, b := h.entries[i], h.entries[i+1]
			h.entries[i].AuditEvent, h.entries[i].ID = b.AuditEvent, b.ID
			h.entries[i+1].AuditEvent, h.entries[i+1].ID = a.AuditEvent, a.ID
		},
		"add one without a checkpoint": func(t *rapid.T, h *history) {
			last := h.checkpoints
			h.grow(l, drawEvent(t))
			h.checkpoints = last
		},
		"write all anew with another key": func(t *rapid.T, h *history) {
			*h = *drawHistory(t, stranger, h.org)
		},
		"change an entry and hash all anew": func(t *rapid.T, h *history) {
			i := rapid.IntRange(0, len(h.entries)-1).Draw(t, "which")
			h.entries[i].Actor += "x"
			head := Head{h.entries[i].Seq - 1, h.entries[i].Prev}
			for j := i; j < len(h.entries); j++ {
				h.entries[j] = head.Next(h.entries[j])
			}
		},
		"change an entry and its hash alone": func(t *rapid.T, h *history) {
			e := &h.entries[rapid.IntRange(0, len(h.entries)-1).Draw(t, "which")]
			e.Actor += "x"
			e.Hash = HashOf(*e)
		},
		"leave a number out, with the ledger's key": func(t *rapid.T, h *history) {
			last := h.entries[len(h.entries)-1]
			e := nimbus.AuditEntry{AuditEvent: drawEvent(t), ID: "aud_more", At: last.At}
			e.OrgID = h.org
			entries, checkpoints := l.link(last.At, map[string]Head{h.org: {last.Seq + 1, last.Hash}}, []nimbus.AuditEntry{e})
			h.entries, h.checkpoints = append(h.entries, entries...), append(h.checkpoints, checkpoints...)
		},
		"forge a checkpoint": func(t *rapid.T, h *history) {
			c := &h.checkpoints[rapid.IntRange(0, len(h.checkpoints)-1).Draw(t, "which")]
			*c = sign(stranger.key, c.OrgID, c.Prev, Head{c.Seq, c.Hash}, c.At)
		},
		"repeat a checkpoint": func(_ *rapid.T, h *history) {
			h.checkpoints = append(h.checkpoints, h.checkpoints[len(h.checkpoints)-1])
		},
		"remove a checkpoint before the last": func(t *rapid.T, h *history) {
			if len(h.checkpoints) < 2 {
				t.Skip()
			}
			i := rapid.IntRange(0, len(h.checkpoints)-2).Draw(t, "which")
			h.checkpoints = slices.Delete(h.checkpoints, i, i+1)
		},
		"remove the last checkpoint": func(_ *rapid.T, h *history) {
			h.checkpoints = h.checkpoints[:len(h.checkpoints)-1]
		},
	}
	// Where the first entry that is wrong can be told exactly.
	named := map[string]bool{"remove the last entries": true, "remove one before the last": true, "swap two": true}
	for name, change := range entryFields {
		named["change an entry's "+name] = true
		tampering["change an entry's "+name] = func(t *rapid.T, h *history) {
			change(&h.entries[rapid.IntRange(0, len(h.entries)-1).Draw(t, "which")])
		}
	}
	for name, change := range checkpointFields {
		tampering["change a checkpoint's "+name] = func(t *rapid.T, h *history) {
			change(&h.checkpoints[rapid.IntRange(0, len(h.checkpoints)-1).Draw(t, "which")])
		}
	}
	for name, tamper := range tampering {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) {
				h := drawHistory(t, l, rapid.SampledFrom([]string{"", "org_a"}).Draw(t, "org"))
				if err := h.verify(l.PublicKey()); err != nil {
					t.Fatalf("before: %v", err)
				}
				before := history{h.org, slices.Clone(h.entries), slices.Clone(h.checkpoints)}
				tamper(t, h)
				if reflect.DeepEqual(*h, before) {
					t.Skip() // it was two alike
				}
				var broken *BrokenError
				if err := h.verify(l.PublicKey()); !errors.As(err, &broken) || broken.Seq < 1 {
					t.Fatalf("it was not found: %v", err)
				}
				first := 0
				for first < len(h.entries) && first < len(before.entries) && reflect.DeepEqual(h.entries[first], before.entries[first]) {
					first++
				}
				if named[name] && broken.Seq != int64(first+1) {
					t.Fatalf("entry %d is named, not the first that is wrong, %d: %v", broken.Seq, first+1, broken)
				}
			})
		})
	}
}

// TestAHistoryWrittenAnew by who has the key is found by what was kept.
func TestAHistoryWrittenAnew(t *testing.T) {
	t.Parallel()
	l := ledgerOf()
	told := &history{}
	told.grow(l, nimbus.AuditEvent{Actor: "admin:a", Action: "token.create"}, nimbus.AuditEvent{Actor: "admin:a", Action: "host.remove"})
	kept := slices.Clone(told.checkpoints)
	told.grow(l, nimbus.AuditEvent{Actor: "admin:b", Action: "host.cordon"})
	if err := told.verify(l.PublicKey(), kept...); err != nil {
		t.Errorf("the chain as it was: %v", err)
	}
	var broken *BrokenError
	anew, none := &history{}, &history{}
	anew.grow(l, nimbus.AuditEvent{Actor: "admin:a", Action: "token.create"}, nimbus.AuditEvent{Actor: "admin:a", Action: "host.list"})
	if err := anew.verify(l.PublicKey()); err != nil {
		t.Errorf("alone it looks right: %v", err)
	}
	if err := anew.verify(l.PublicKey(), kept...); !errors.As(err, &broken) || broken.Seq != 2 {
		t.Errorf("written anew: %v", err)
	}
	if err := none.verify(l.PublicKey(), kept...); !errors.As(err, &broken) || broken.Seq != 1 {
		t.Errorf("emptied: %v", err)
	}
	if err := told.verify(l.PublicKey(), sign(ledgerOf().key, "", 0, Head{1, told.entries[0].Hash}, time.Now())); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
		t.Errorf("a kept checkpoint of another key: %v", err)
	}
}

// TestACheckpointThatIsMissing is named, with how it is known; also behind
// checkpoints from before they told which one was before.
func TestACheckpointThatIsMissing(t *testing.T) {
	t.Parallel()
	l := ledgerOf()
	e := nimbus.AuditEvent{Actor: "a", Action: "b.c"}
	for loose := range 5 {
		h := &history{}
		for i := range 4 {
			h.grow(l, e, e)
			if i < loose { // as it was made before
				c := &h.checkpoints[i]
				*c = sign(l.key, "", nimbus.AuditNoPrev, Head{c.Seq, c.Hash}, c.At)
			}
		}
		if err := h.verify(l.PublicKey()); err != nil {
			t.Errorf("%d that do not tell the one before: %v", loose, err)
		}
		for i := range 3 {
			less := &history{"", h.entries, slices.Delete(slices.Clone(h.checkpoints), i, i+1)}
			err := less.verify(l.PublicKey())
			var broken *BrokenError
			if tells := i+1 >= loose; tells != errors.As(err, &broken) {
				t.Errorf("with %d that do not tell, the checkpoint of entry %d is removed: %v", loose, h.checkpoints[i].Seq, err)
			}
			if broken != nil && (broken.Seq != h.checkpoints[i].Seq || !strings.Contains(broken.What, "its checkpoint is missing")) {
				t.Errorf("the checkpoint of entry %d is removed, and it is said: %v", h.checkpoints[i].Seq, err)
			}
		}
	}
}

// growing adds to the chain when its checkpoints have been read.
type growing struct {
	*history
	grown bool
	grow  func()
}

func (g *growing) Checkpoints(ctx context.Context, page nimbus.PageRequest) ([]nimbus.AuditCheckpoint, string, error) {
	out, next, err := g.history.Checkpoints(ctx, page)
	if out = slices.Clone(out); next == "" && !g.grown {
		g.grown = true
		g.grow()
	}
	return out, next, err
}

// TestAChainThatGrowsWhileItIsWalked is intact as far as it went.
func TestAChainThatGrowsWhileItIsWalked(t *testing.T) {
	t.Parallel()
	l, h := ledgerOf(), &history{}
	e := nimbus.AuditEvent{Actor: "a", Action: "b.c"}
	h.grow(l, e, e)
	g := &growing{history: h, grow: func() { h.grow(l, e, e, e, e, e) }}
	v := NewVerifier("", l.PublicKey())
	if err := Walk(t.Context(), g, v); err != nil {
		t.Fatal(err)
	}
	if n, _, err := v.End(); err != nil || n != 2 {
		t.Errorf("%d entries were verified: %v", n, err)
	}
}

func TestReadRefusesWhatIsNoExport(t *testing.T) {
	t.Parallel()
	l, h := ledgerOf(), &history{}
	h.grow(l, nimbus.AuditEvent{Actor: "a", Action: "b.c"})
	var export bytes.Buffer
	if err := Walk(t.Context(), h, NewWriter(&export)); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"nothing": "", "no JSON": "hello\n", "another kind": `{"kind":"x"}` + "\n",
		"more than is hashed":   strings.Replace(export.String(), `"seq":1`, `"seq":1,"note":"x"`, 1),
		"two values":            strings.Replace(export.String(), "\n", " {}\n", 1),
		"a signed entry":        strings.Replace(export.String(), `"seq":1`, `"seq":1,"signature":"eA=="`, 1),
		"an entry that follows": strings.Replace(export.String(), `"seq":1`, `"seq":1,"prev_seq":0`, 1),
		"a line without an end": strings.Repeat("x", maxLine+1),
	} {
		if err := Read(strings.NewReader(text), func(string) Sink { return NewVerifier("", l.PublicKey()) }); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeysAreKeptAsPEM(t *testing.T) {
	t.Parallel()
	var all []byte
	var want []ed25519.PublicKey
	for range 2 {
		key := ledgerOf().PublicKey()
		text, err := EncodeKey(key)
		if err != nil {
			t.Fatal(err)
		}
		all, want = append(all, text...), append(want, key)
	}
	got, err := DecodeKeys(all)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	for _, text := range []string{"", "hello", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"} {
		if _, err := DecodeKeys([]byte(text)); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
			t.Errorf("%q: %v", text, err)
		}
	}
}
