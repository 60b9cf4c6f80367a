package image

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
)

// OrFull says of an error in making an image, where that is so, that the disk
// with the folder of images has no room left. Code then: unavailable, which is
// the host's fault and no image's.
func (s Store) OrFull(err error) error {
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	return nimbus.Errorf(nimbus.CodeUnavailable, "the disk that holds this host's images is full: %w", err).
		WithHint("nimbus images gc removes what no job has used for long; --images names a folder on another disk (now: %s)", s.Dir)
}
