package identity

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
)

// SealedStore is what a rotation needs of the store.
type SealedStore interface {
	// SealedSecrets are up to n secrets of all orgs, in the order of org and
	// name, after the one that is named.
	SealedSecrets(ctx context.Context, after SealedSecret, n int) ([]SealedSecret, error)
	// ReplaceSealed changes how a secret is sealed, unless it was changed meanwhile.
	ReplaceSealed(ctx context.Context, orgID, name string, old, anew []byte) (bool, error)
	// RecordAudit tells the audit ledger of events, all or none.
	RecordAudit(ctx context.Context, events []nimbus.AuditEvent) error
}

// SealedSecret is a secret as it is kept.
type SealedSecret struct {
	OrgID, Name string
	Sealed      []byte
}

// KeyUse is a master key without the key: how many secrets are sealed with it.
type KeyUse struct {
	ID      string
	Seals   bool // it is the first
	Missing bool // secrets are sealed with it, but it is not there
	Secrets int
}

const (
	sealBatch = 100
	// sealPasses bounds how often all secrets are looked through for ones that
	// were sealed with an old key meanwhile.
	sealPasses = 10
	// Settle is how long a server may take from sealing a secret to keeping it:
	// an old key goes only after that, and another look.
	Settle = 10 * time.Second
)

// Rotation changes the master key in a file. Each of its steps leaves a file
// with which all secrets open, so that it can be begun again where it ended.
// Servers that run meanwhile follow the file. The audit ledger hears of each
// change before it is made: no transaction holds a file and the ledger, and so
// the file never changes without a word.
type Rotation struct {
	File   string
	Store  SealedStore
	Settle time.Duration

	step func(name string) error // a test ends the rotation here
}

// Rotated is what came of it.
type Rotated struct {
	ID       string // of the key that seals now
	Resumed  bool   // a rotation that was begun before is finished, there is no new key
	Resealed int
	Removed  []string
}

// Uses lists the keys, first the one that seals, and those that are missing.
func (r Rotation) Uses(ctx context.Context) ([]KeyUse, error) {
	keys, err := r.keys()
	if err != nil {
		return nil, err
	}
	count := map[string]int{}
	err = r.each(ctx, func(s SealedSecret) error {
		count[keyID(s.Sealed)]++
		return nil
	})
	var out []KeyUse
	for i, k := range keys {
		out = append(out, KeyUse{ID: k.id, Seals: i == 0, Secrets: count[k.id]})
		delete(count, k.id)
	}
	for _, id := range slices.Sorted(maps.Keys(count)) {
		out = append(out, KeyUse{ID: id, Missing: true, Secrets: count[id]})
	}
	return out, err
}

// Stage adds a key that opens and does not seal yet, for servers on several
// machines to have it first.
func (r Rotation) Stage(ctx context.Context) (id string, err error) {
	unlock, err := r.lock()
	if err != nil {
		return "", err
	}
	defer unlock()
	keys, err := r.keys()
	if err != nil {
		return "", err
	}
	key := newMasterKey()
	return key.id, r.replace(ctx, append(keys, key), "master_key.stage", key.id)
}

// Run has a key seal, seals all secrets anew with it, and removes the others,
// unless they are to be kept. The key is the one named, or a new one; where
// there are several already, a rotation was begun, and is finished. Codes:
// conflict, not_found for the key that is named.
func (r Rotation) Run(ctx context.Context, id string, keep bool) (out Rotated, err error) {
	unlock, err := r.lock()
	if err != nil {
		return out, err
	}
	defer unlock()
	keys, err := r.keys()
	if err != nil {
		return out, err
	}
	if err := r.checkMissing(ctx); err != nil {
		return out, err
	}
	at := slices.IndexFunc(keys, func(k masterKey) bool { return k.id == id })
	switch {
	case id != "" && at < 0:
		return out, nimbus.Errorf(nimbus.CodeNotFound, "there is no key %q", id).WithHint("nimbus keys list shows the keys")
	case at > 0:
		keys = slices.Insert(slices.Delete(slices.Clone(keys), at, at+1), 0, keys[at])
	case id == "" && len(keys) > 1:
		out.Resumed = true
	case id == "":
		keys = slices.Insert(keys, 0, newMasterKey())
	}
	out.ID = keys[0].id
	if err := r.replace(ctx, keys, "master_key.rotate", out.ID); err != nil {
		return out, err
	}
	if err := r.reached("on top"); err != nil {
		return out, err
	}
	if out.Resealed, err = r.reseal(ctx, keys); err != nil || keep || len(keys) == 1 {
		return out, err
	}
	return out, r.removeOld(ctx, keys, &out)
}

// removeOld waits for what was being kept with an old key, and removes those
// with which nothing is sealed.
func (r Rotation) removeOld(ctx context.Context, keys []masterKey, out *Rotated) error {
	select {
	case <-time.After(r.Settle):
	case <-ctx.Done():
		return fmt.Errorf("wait for servers: %w", ctx.Err())
	}
	late, err := r.reseal(ctx, keys)
	out.Resealed += late
	if err != nil {
		return err
	}
	if err := r.reached("resealed"); err != nil {
		return err
	}
	for _, k := range keys[1:] {
		out.Removed = append(out.Removed, k.id)
	}
	return r.replace(ctx, keys[:1], "master_key.remove", out.Removed...)
}

// reseal seals anew what is sealed with another key than the first, until
// nothing is.
func (r Rotation) reseal(ctx context.Context, keys []masterKey) (total int, err error) {
	ring := &Keyring{keys: keys}
	for range sealPasses {
		n := 0
		err := r.each(ctx, func(s SealedSecret) error {
			if keyID(s.Sealed) == keys[0].id {
				return nil
			}
			n++
			return r.resealOne(ctx, ring, s)
		})
		if err != nil || n == 0 {
			return total, err
		}
		total += n
	}
	return total, nimbus.Errorf(nimbus.CodeConflict, "a server goes on sealing with an old key").
		WithHint("does each replica have the new key file? Then run `nimbus keys rotate` again, which finishes what was begun")
}

func (r Rotation) resealOne(ctx context.Context, ring *Keyring, s SealedSecret) error {
	secret, err := ring.Open(s.OrgID, s.Name, s.Sealed)
	if err != nil {
		return err
	}
	anew, err := ring.Seal(s.OrgID, s.Name, secret)
	if err != nil {
		return err
	}
	if _, err = r.Store.ReplaceSealed(ctx, s.OrgID, s.Name, s.Sealed, anew); err != nil {
		return fmt.Errorf("seal %q anew: %w", s.Name, err)
	}
	return r.reached("one sealed anew")
}

func (r Rotation) checkMissing(ctx context.Context) error {
	uses, err := r.Uses(ctx)
	for _, u := range uses {
		if u.Missing {
			return nimbus.Errorf(nimbus.CodeConflict, "secrets are sealed with the key %s, which is not in %s: %d", u.ID, r.File, u.Secrets).
				WithHint("put its line back into the file")
		}
	}
	return err
}

// each goes through all secrets, a batch at a time.
func (r Rotation) each(ctx context.Context, f func(SealedSecret) error) error {
	var last SealedSecret
	for {
		page, err := r.Store.SealedSecrets(ctx, last, sealBatch)
		if err != nil {
			return fmt.Errorf("list secrets: %w", err)
		}
		for _, s := range page {
			if err := f(s); err != nil {
				return err
			}
		}
		if len(page) < sealBatch {
			return nil
		}
		last = page[len(page)-1]
	}
}

func (r Rotation) keys() ([]masterKey, error) {
	keys, err := KeySource{File: r.File}.read()
	if err != nil {
		return nil, fmt.Errorf("read master key: %w", err)
	}
	return keys, nil
}

// replace writes the key file anew, having told the ledger what is done to
// which keys, and which account of the machine does it.
func (r Rotation) replace(ctx context.Context, keys []masterKey, action string, ids ...string) error {
	events := make([]nimbus.AuditEvent, len(ids))
	for i, id := range ids {
		events[i] = nimbus.AuditEvent{Actor: nimbus.AuditSystem, Action: action, Target: id, Outcome: nimbus.AuditAllowed,
			Detail: map[string]string{"uid": strconv.Itoa(os.Getuid())}}
	}
	if err := r.Store.RecordAudit(ctx, events); err != nil {
		return fmt.Errorf("tell the audit ledger of the master key: %w", err)
	}
	if err := replaceKeyFile(r.File, keys); err != nil {
		return fmt.Errorf("write master key: %w", err)
	}
	return nil
}

// lock keeps a second rotation of the same file away.
func (r Rotation) lock() (unlock func(), err error) {
	f, err := os.OpenFile(r.File+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock master key: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, nimbus.Errorf(nimbus.CodeConflict, "somebody else changes the master key now")
		}
		return nil, fmt.Errorf("lock master key: %w", err)
	}
	return func() { f.Close() }, nil
}

func (r Rotation) reached(step string) error {
	if r.step == nil {
		return nil
	}
	return r.step(step)
}

// keyID is the id of the key that something is sealed with, safe to show.
func keyID(sealed []byte) string {
	return strings.ToValidUTF8(string(sealed[:min(2*keyIDBytes, len(sealed))]), "?")
}
