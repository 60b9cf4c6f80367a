package blob

import (
	"context"
	"errors"
	"io"

	"github.com/nimbus-ci/nimbus"
)

// Ranger is the part of a Store that OpenPart needs.
type Ranger interface {
	OpenRange(ctx context.Context, key string, offset, n int64) (io.ReadCloser, error)
}

// OpenPart opens n bytes of a blob from offset on whose size is known. One that
// has another size, as after damage to a file system, is as good as not there, and
// so not_found: its bytes are not those that were put. Codes: not_found.
func OpenPart(ctx context.Context, s Ranger, key string, size, offset, n int64) (io.ReadCloser, error) {
	r, err := s.OpenRange(ctx, key, offset, n)
	if nimbus.ErrorCode(err) == nimbus.CodeInvalid && offset >= 0 && offset <= size { // it ends before
		return nil, nimbus.Errorf(nimbus.CodeNotFound, "%w whole: it should have %d bytes, and does not reach byte %d", NotFound(key), size, offset)
	}
	if err != nil {
		return nil, err //nolint:wrapcheck // told by its caller
	}
	if sized, ok := r.(Sized); ok {
		if has, known := sized.BlobSize(); known && has != size {
			return nil, errors.Join(nimbus.Errorf(nimbus.CodeNotFound, "%w whole: it has %d bytes, and should have %d", NotFound(key), has, size), r.Close())
		}
	}
	return r, nil
}
