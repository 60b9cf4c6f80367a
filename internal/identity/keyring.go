package identity

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/nimbus-ci/nimbus"
)

// Keyring seals secrets at rest. Its file holds one key a line, "<id> <hex>";
// the first seals, all open: a new key is put on top, and an old one removed
// once nothing is sealed with it any more.
type Keyring struct {
	keys []masterKey
}

type masterKey struct {
	id  string
	key []byte
}

const keyIDBytes = 4

// maxKeyFile is how much is read of a key file: hundreds of keys.
const maxKeyFile = 64 << 10

// OpenKeyring reads the master keys, making the file with a first key when it
// isn't there. A file that others may read is refused.
func OpenKeyring(path string) (*Keyring, error) {
	raw, err := readKeyFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err = createKeyFile(path); err == nil || errors.Is(err, fs.ErrExist) { // another process was first
			raw, err = readKeyFile(path)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read master key: %w", err)
	}
	var k Keyring
	for line := range strings.Lines(string(raw)) {
		id, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		if id == "" {
			continue
		}
		key, err := hex.DecodeString(text)
		if err != nil || len(key) != chacha20poly1305.KeySize || len(id) != 2*keyIDBytes {
			return nil, nimbus.Errorf(nimbus.CodeInvalid, "the master key file has a line that is no key").
				WithHint("each line of %s is an id of %d hex digits, a space, and a key of %d", path, 2*keyIDBytes, 2*chacha20poly1305.KeySize)
		}
		k.keys = append(k.keys, masterKey{id: id, key: key})
	}
	if len(k.keys) == 0 {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "the master key file is empty").WithHint("restore %s from a backup", path)
	}
	return &k, nil
}

func readKeyFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "the master key file may be read by others (mode %04o)", info.Mode().Perm()).
			WithHint("chmod 600 %s", path)
	}
	return io.ReadAll(io.LimitReader(f, maxKeyFile))
}

// createKeyFile makes the file whole or not at all: an empty one, left by a
// crash, could not be told from one whose keys are lost.
func createKeyFile(path string) error {
	id, key := make([]byte, keyIDBytes), make([]byte, chacha20poly1305.KeySize)
	rand.Read(id) // never fails
	rand.Read(key)
	dir, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	name := filepath.Base(path)
	temp := "." + name + "." + rand.Text()
	f, err := dir.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%x %x\n", id, key)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = dir.Link(temp, name) // unlike a rename, it replaces nothing
	}
	if err = errors.Join(err, dir.Remove(temp)); err != nil {
		return err
	}
	d, err := dir.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Seal encrypts a secret of an org under a name: opened as another's, or under
// another name, it does not open.
func (k *Keyring) Seal(orgID, name string, secret []byte) ([]byte, error) {
	first := k.keys[0]
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
	for _, key := range k.keys {
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
	return nil, nimbus.Errorf(nimbus.CodeUnavailable, "the master key that %q was sealed with is missing", name)
}

func associated(orgID, name string) []byte { return fmt.Appendf(nil, "%q %q", orgID, name) }

// Secrets keeps secrets in the store, sealed.
type Secrets struct {
	Store   Store
	Keyring *Keyring
}

// Put keeps a secret.
func (s Secrets) Put(ctx context.Context, orgID, name string, secret []byte) error {
	sealed, err := s.Keyring.Seal(orgID, name, secret)
	if err != nil {
		return err
	}
	return s.Store.PutSecret(ctx, orgID, name, sealed)
}

// Get returns a secret. Codes: not_found.
func (s Secrets) Get(ctx context.Context, orgID, name string) ([]byte, error) {
	sealed, err := s.Store.Secret(ctx, orgID, name)
	if err != nil {
		return nil, err
	}
	return s.Keyring.Open(orgID, name, sealed)
}

// Names are the names of an org's secrets.
func (s Secrets) Names(ctx context.Context, orgID string) ([]SecretName, error) {
	return s.Store.SecretNames(ctx, orgID)
}

// Delete forgets a secret. Codes: not_found.
func (s Secrets) Delete(ctx context.Context, orgID, name string) error {
	return s.Store.DeleteSecret(ctx, orgID, name)
}
