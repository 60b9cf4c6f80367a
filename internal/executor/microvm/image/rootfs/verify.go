package rootfs

import (
	"fmt"
	"path/filepath"
	"reflect"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/filesum"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/source"
)

// Check tells whether a root is what was signed. The whole file is read the
// first time that this process asks, and when the file is not the same any more.
// Codes: internal, with what to do.
func (s *Store) Check(r Root) error {
	if err := s.checkSigned(r); err != nil {
		return err
	}
	sum, err := s.files.Of(r.Path())
	return r.fits(sum, err)
}

// Verify reads all of a root, whatever is known of it.
func (s *Store) Verify(r Root) error {
	if err := s.checkSigned(r); err != nil {
		return err
	}
	sum, err := s.files.Read(r.Path())
	return r.fits(sum, err)
}

// fits compares a file that was read with what was signed.
func (r Root) fits(sum filesum.Sum, err error) error {
	if err != nil {
		return fmt.Errorf("read image: %w", err)
	}
	if digest := digestOf(sum); digest != r.Digest || sum.Bytes != r.Size {
		return changed(r, "the file is %s and has %d bytes", digest, sum.Bytes)
	}
	return nil
}

// checkSigned compares the manifest with what was signed.
func (s *Store) checkSigned(r Root) error {
	var e envelope
	if err := readJSON(filepath.Join(r.dir, attestationFile), &e); err != nil {
		return changed(r, "its attestation can't be read: %v", err)
	}
	keys, err := s.trusted()
	if err != nil {
		return err
	}
	m, err := attested(e, keys)
	if err != nil {
		return changed(r, "%v", err)
	}
	if !m.ConvertedAt.Equal(r.ConvertedAt) {
		return changed(r, "its manifest differs from its attestation")
	}
	m.ConvertedAt = r.ConvertedAt
	if !reflect.DeepEqual(m, r.Manifest) {
		return changed(r, "its manifest differs from its attestation")
	}
	return nil
}

func changed(r Root, format string, args ...any) error {
	return nimbus.Errorf(nimbus.CodeInternal, "the image in %s is not what was converted: "+format, append([]any{r.dir}, args...)...).
		WithHint("%s", again(r))
}

// again is how a root is made again: whoever imported it has to.
func again(r Root) string {
	if r.Source == "" || !source.IsRegistry(r.Source) {
		return "import it again: nimbus images import SOURCE --as NAME"
	}
	return "nimbus images gc --broken removes it; the next job that wants it has it converted again; what was imported with --as has to be imported again"
}
