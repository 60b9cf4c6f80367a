package durable

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
)

// OrReadOnly says of an error in writing to the folder of images, where that is
// so, that it may not be written to. Code then: unavailable.
func OrReadOnly(err error) error {
	if !errors.Is(err, unix.EROFS) && !errors.Is(err, unix.EACCES) {
		return err
	}
	return nimbus.Errorf(nimbus.CodeUnavailable, "the folder of images can't be written to: %w", err).
		WithHint("make it writable for this user, or name another folder: --images DIR")
}
