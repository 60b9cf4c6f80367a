package agent

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/wholefile"
)

// keyBytes is the length of keys, that of AES-256.
const keyBytes = 32

// sealer keeps secrets of jobs off the disk: what the next agent needs of them is
// written sealed, by a key that is in memory alone. A host that starts anew has
// lost the key, and the sandboxes that it was for.
type sealer struct {
	key  []byte
	path string
}

// keyFolders are where keys are kept, the first one that this user can have: all of
// them are in memory.
func keyFolders() []string {
	out := []string{"/run/nimbus-keys"}
	if own := os.Getenv("XDG_RUNTIME_DIR"); own != "" {
		out = append(out, filepath.Join(own, "nimbus-keys"))
	}
	return append(out, "/dev/shm/nimbus-keys-"+strconv.Itoa(os.Getuid()))
}

// openSealer finds the key of the agent whose directory data is, in whichever folder
// an earlier agent could have, or makes one in the first.
func openSealer(data string, folders []string) (*sealer, error) {
	data, err := filepath.Abs(data)
	if err != nil {
		return nil, fmt.Errorf("find the agent's directory: %w", err)
	}
	name := sha256.Sum256([]byte(data))
	var own []*sealer
	var whys []error
	for _, dir := range folders {
		if err := ownFolder(dir); err != nil {
			whys = append(whys, err)
			continue
		}
		s := &sealer{path: filepath.Join(dir, hex.EncodeToString(name[:16]))}
		if found, err := s.load(); found || err != nil {
			return s, err
		}
		own = append(own, s)
	}
	if len(own) > 0 {
		own[0].key = make([]byte, keyBytes)
		rand.Read(own[0].key) // never fails
		return own[0], own[0].keep()
	}
	return nil, (&nimbus.Error{Code: nimbus.CodeUnavailable, Message: "there is no folder in memory for keys", Err: errors.Join(whys...)}).
		WithHint("this user needs one of %v, or to be allowed to make it", folders)
}

// ownFolder makes a folder that is this user's alone. Where everybody may make
// some, somebody else may have.
func ownFolder(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err //nolint:wrapcheck // it has the path
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err //nolint:wrapcheck // it has the path
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || !info.IsDir() || int(st.Uid) != os.Getuid() || info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s is not a folder of this user's alone", dir)
	}
	return nil
}

// load reads the key, if there is one.
func (s *sealer) load() (found bool, err error) {
	s.key, err = os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(s.key) != keyBytes {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the key: %w", err)
	}
	return true, nil
}

// keep writes the key where it is not: a login's end may take a user's folders away.
func (s *sealer) keep() error {
	if _, err := os.Lstat(s.path); err == nil {
		return nil
	}
	if err := ownFolder(filepath.Dir(s.path)); err != nil {
		return fmt.Errorf("keep the key: %w", err)
	}
	if err := wholefile.Write(s.path, s.key, 0o600); err != nil {
		return fmt.Errorf("keep the key: %w", err)
	}
	return nil
}

// forget removes the key, once nothing is sealed with it any more.
func (s *sealer) forget() error {
	if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the key: %w", err)
	}
	return nil
}

// of is the cipher for one attempt, so that what is sealed of one can't be put into
// another's place.
func (s *sealer) of(attemptID string) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, s.key, nil, attemptID, keyBytes)
	if err != nil {
		return nil, fmt.Errorf("derive the attempt's key: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("make the attempt's cipher: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("make the attempt's cipher: %w", err)
	}
	return aead, nil
}
