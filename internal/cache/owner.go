package cache

import (
	"context"
	"fmt"

	"github.com/nimbus-ci/nimbus"
)

// CheckUpload tells whether an upload, or the entry that it became, is where the
// caller writes. For protocols in which a client names its upload by a number.
// Codes: forbidden, not_found.
func (s *Service) CheckUpload(ctx context.Context, c Caller, uploadID int64) error {
	if _, err := c.place("any", "any"); err != nil {
		return err
	}
	p, err := s.store.CachePlace(ctx, uploadID)
	if err != nil {
		return fmt.Errorf("look up an upload: %w", err)
	}
	if p.OrgID != c.OrgID || p.Repo != c.Repo || p.Scope != c.Write {
		return nimbus.Errorf(nimbus.CodeNotFound, "there is no such upload")
	}
	return nil
}
