package identity

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/nimbus-ci/nimbus"
)

// Keyring seals secrets at rest. The first of its keys seals, all open: a new
// key is put on top, and an old one removed once nothing is sealed with it any
// more. One that is from a file follows the file, so that a server learns of a
// new key while it runs.
type Keyring struct {
	source KeySource

	mu   sync.Mutex
	keys []masterKey
	seen fileState
}

type masterKey struct {
	id  string
	key []byte
}

// current are the keys as the file has them by now. A file that can't be read,
// or is no key file any more, leaves those that were known.
func (k *Keyring) current() []masterKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.source.File == "" {
		return k.keys
	}
	if state, err := stateOf(k.source.File); err == nil && state != k.seen {
		if keys, err := k.source.read(); err == nil {
			k.keys, k.seen = keys, state
		}
	}
	return k.keys
}

// seals tells whether something is sealed with the key that seals by now.
func (k *Keyring) seals(sealed []byte) bool {
	return bytes.HasPrefix(sealed, []byte(k.current()[0].id))
}

// Seal encrypts a secret of an org under a name: opened as another's, or under
// another name, it does not open.
func (k *Keyring) Seal(orgID, name string, secret []byte) ([]byte, error) {
	first := k.current()[0]
	aead, err := chacha20poly1305.NewX(first.key)
	if err != nil {
		return nil, fmt.Errorf("seal secret: %w", err)
	}
	nonce := make([]byte, aead.NonceSize())
	rand.Read(nonce)
	out := append([]byte(first.id), nonce...)
	return aead.Seal(out, nonce, secret, associated(orgID, name)), nil
}

// Open decrypts a secret.
func (k *Keyring) Open(orgID, name string, sealed []byte) ([]byte, error) {
	for _, key := range k.current() {
		rest, ok := bytes.CutPrefix(sealed, []byte(key.id))
		if !ok || len(rest) < chacha20poly1305.NonceSizeX {
			continue
		}
		aead, err := chacha20poly1305.NewX(key.key)
		if err != nil {
			return nil, fmt.Errorf("open secret: %w", err)
		}
		secret, err := aead.Open(nil, rest[:chacha20poly1305.NonceSizeX], rest[chacha20poly1305.NonceSizeX:], associated(orgID, name))
		if err != nil {
			return nil, fmt.Errorf("open secret %q: %w", name, err)
		}
		return secret, nil
	}
	return nil, nimbus.Errorf(nimbus.CodeConflict, "the master key %q, which %q was sealed with, is missing", keyID(sealed), name).
		WithHint("add that key's line to the master key file: it is in the copy from before the last rotation; `nimbus keys` lists what is missing")
}

// Probe looks whether the keys at hand open secrets, before they are needed. It
// makes no key.
type Probe struct {
	source KeySource
	ring   Keyring
	shut   map[string]int // secrets that don't open, by the id of the key that they want
}

// Probe reads the keys. A file that isn't there has none.
func (s KeySource) Probe() (*Probe, error) {
	p := &Probe{source: s, shut: map[string]int{}}
	var err error
	if s.File == "" {
		p.ring.keys, err = parseKeys(s.Text)
	} else if p.ring.keys, err = s.read(); errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read master key: %w", err)
	}
	return p, nil
}

// Try tries to open a secret.
func (p *Probe) Try(s SealedSecret) {
	if _, err := p.ring.Open(s.OrgID, s.Name, s.Sealed); err != nil {
		p.shut[keyID(s.Sealed)]++
	}
}

// Err names the keys that are missing, or are others than those of their ids;
// nil where all that was tried opens. Codes: conflict.
func (p *Probe) Err() error {
	if len(p.shut) == 0 {
		return nil
	}
	var wanted []string
	for _, id := range slices.Sorted(maps.Keys(p.shut)) {
		wanted = append(wanted, fmt.Sprintf("%q (secrets: %d)", id, p.shut[id]))
	}
	where := cmp.Or(p.source.File, "the environment")
	if len(p.ring.keys) == 0 {
		return nimbus.Errorf(nimbus.CodeConflict, "there is no master key in %s; secrets are sealed with the key %s", where, strings.Join(wanted, ", "))
	}
	var have []string
	for _, k := range p.ring.keys {
		have = append(have, fmt.Sprintf("%q", k.id))
	}
	return nimbus.Errorf(nimbus.CodeConflict, "the master key in %s does not open the secrets: they are sealed with the key %s, and there is %s",
		where, strings.Join(wanted, ", "), strings.Join(have, ", "))
}

func associated(orgID, name string) []byte { return fmt.Appendf(nil, "%q %q", orgID, name) }
