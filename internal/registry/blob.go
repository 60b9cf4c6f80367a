package registry

import (
	"context"
	"fmt"

	"github.com/nimbus-ci/nimbus"
)

// touches is into how many parts the grace of a blob is divided: its use is
// written down when more than one has passed since it was.
const touches = 8

// Blob is a blob of a repository, which stays for the grace from now on. Codes:
// not_found.
func (s *Service) Blob(ctx context.Context, p Place, digest Digest) (Blob, error) {
	b, ok, generation := s.known.blob(ctx, s, named{p, digest})
	if ok && s.clock.Now().Sub(b.UsedAt) < s.limits.Grace/touches {
		return b, nil
	}
	b, now, err := s.store.RegistryBlob(ctx, p, digest)
	if err != nil {
		return Blob{}, fmt.Errorf("look up a blob: %w", err)
	}
	if now.Sub(b.UsedAt) >= s.limits.Grace/touches {
		if err := s.store.TouchRegistryBlob(ctx, p, digest); err != nil {
			return Blob{}, fmt.Errorf("keep a blob: %w", err)
		}
		b.UsedAt = now
	}
	// By this replica's clock, which may differ from the store's.
	b.UsedAt = s.clock.Now().Add(-now.Sub(b.UsedAt))
	s.known.addBlob(named{p, digest}, b, generation)
	return b, nil
}

// Mount makes a blob of one repository one of another, of the same org. Codes:
// not_found.
func (s *Service) Mount(ctx context.Context, from, to Place, digest Digest) error {
	if from.OrgID != to.OrgID {
		return NoBlob(digest)
	}
	if err := s.store.MountRegistryBlob(ctx, from, to, digest); err != nil {
		return fmt.Errorf("mount a blob: %w", err)
	}
	return nil
}

// RemoveBlob takes a blob from a repository. Codes: not_found; conflict where a
// manifest names it.
func (s *Service) RemoveBlob(ctx context.Context, p Place, digest Digest) error {
	err := s.store.DropRegistryBlob(ctx, p, digest)
	s.known.forget()
	if err != nil {
		return fmt.Errorf("remove a blob: %w", err)
	}
	return nil
}

// NoBlob is the refusal of a blob that is not there.
func NoBlob(digest Digest) error {
	return Refuse(BlobUnknown, nimbus.CodeNotFound, "there is no blob %s in this repository", digest)
}
