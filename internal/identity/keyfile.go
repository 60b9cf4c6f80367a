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
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/nimbus-ci/nimbus"
)

// KeySource is where the master keys come from: a file, or text that holds what
// the file would. Each line is a key, "<id> <hex>".
type KeySource struct {
	File string
	Text string // instead of a file
	// Sheltered says that the file's folder keeps others out, whatever the
	// file's mode says, as systemd's credentials have it.
	Sheltered bool
}

const keyIDBytes = 4

// maxKeyFile is how much is read of a key file: hundreds of keys.
const maxKeyFile = 64 << 10

// OpenKeyring reads the master keys of a file, making it with a first key when
// it isn't there. A file that others may read is refused.
func OpenKeyring(path string) (*Keyring, error) { return KeySource{File: path}.Open() }

// OpenFor reads the master keys of a database. It makes a first key only where
// nothing is sealed: one made beside secrets would open none of them, and look
// like the one that is lost. Codes: conflict.
func (s KeySource) OpenFor(ctx context.Context, db SealedStore) (*Keyring, error) {
	if s.File == "" {
		return s.Open()
	}
	if _, err := os.Stat(s.File); !errors.Is(err, fs.ErrNotExist) {
		return s.Open()
	}
	sealed, err := db.SealedSecrets(ctx, SealedSecret{}, 1)
	if err != nil {
		return nil, fmt.Errorf("look for what is sealed: %w", err)
	}
	if len(sealed) > 0 {
		return nil, nimbus.Errorf(nimbus.CodeConflict, "there is no master key in %s, and secrets of this database are sealed with the key %q", s.File, keyID(sealed[0].Sealed)).
			WithHint("put the master key file there, from the machine or the safe place that has it, or name it with --master-key-file")
	}
	return s.Open()
}

// Open reads the master keys.
func (s KeySource) Open() (*Keyring, error) {
	k := &Keyring{source: s}
	var err error
	if s.File == "" {
		k.keys, err = parseKeys(s.Text)
		return k, err
	}
	k.seen, err = stateOf(s.File)
	if errors.Is(err, fs.ErrNotExist) {
		if err = createKeyFile(s.File); err == nil || errors.Is(err, fs.ErrExist) { // another process was first
			k.seen, err = stateOf(s.File)
		}
	}
	if err == nil {
		k.keys, err = s.read()
	}
	if err != nil {
		return nil, fmt.Errorf("read master key: %w", err)
	}
	return k, nil
}

func (s KeySource) read() ([]masterKey, error) {
	f, err := os.Open(s.File)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 && !s.Sheltered {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "the master key file may be read by others (mode %04o)", info.Mode().Perm()).
			WithHint("chmod 600 %s", s.File)
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, err
	}
	return parseKeys(string(raw))
}

// parseKeys reads the lines of a key file. Its errors never hold any of them.
func parseKeys(text string) (keys []masterKey, err error) {
	for line := range strings.Lines(text) {
		id, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		if id == "" {
			continue
		}
		key, err := hex.DecodeString(text)
		if err != nil || len(key) != chacha20poly1305.KeySize || len(id) != 2*keyIDBytes {
			return nil, nimbus.Errorf(nimbus.CodeInvalid, "the master key has a line that is no key").
				WithHint("each line is an id of %d hex digits, a space, and a key of %d", 2*keyIDBytes, 2*chacha20poly1305.KeySize)
		}
		keys = append(keys, masterKey{id: id, key: key})
	}
	if len(keys) == 0 {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "the master key file is empty").WithHint("restore it from where it is kept")
	}
	return keys, nil
}

func formatKeys(keys []masterKey) []byte {
	var out bytes.Buffer
	for _, k := range keys {
		fmt.Fprintf(&out, "%s %x\n", k.id, k.key)
	}
	return out.Bytes()
}

func newMasterKey() masterKey {
	id, key := make([]byte, keyIDBytes), make([]byte, chacha20poly1305.KeySize)
	rand.Read(id) // never fails
	rand.Read(key)
	return masterKey{id: hex.EncodeToString(id), key: key}
}

// fileState tells one content of a file from another.
type fileState struct {
	changed time.Time
	size    int64
	inode   uint64
}

// createKeyFile makes the file whole or not at all: an empty one, left by a
// crash, could not be told from one whose keys are lost.
func createKeyFile(path string) error {
	return writeKeyFile(path, []masterKey{newMasterKey()}, (*os.Root).Link) // unlike a rename, it replaces nothing
}

// replaceKeyFile gives the file other keys, at once.
func replaceKeyFile(path string, keys []masterKey) error {
	return writeKeyFile(path, keys, (*os.Root).Rename)
}

func writeKeyFile(path string, keys []masterKey, place func(dir *os.Root, temp, name string) error) error {
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
	_, err = f.Write(formatKeys(keys))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = place(dir, temp, name)
	}
	if gone := dir.Remove(temp); err == nil && !errors.Is(gone, fs.ErrNotExist) { // a rename took it
		err = gone
	}
	if err != nil {
		return err
	}
	d, err := dir.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
