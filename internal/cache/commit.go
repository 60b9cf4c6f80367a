package cache

import (
	"context"
	"fmt"

	"github.com/nimbus-ci/nimbus"
)

// Blocks is how many blocks came of an upload. Codes: not_found for one that is over.
func (s *Service) Blocks(ctx context.Context, uploadID int64) (int64, error) {
	n, err := s.store.CacheBlocks(ctx, uploadID)
	if err != nil {
		return 0, fmt.Errorf("look up an upload: %w", err)
	}
	return n, nil
}

// Arrange says which blocks are the content, in order. Twice the same is fine.
// Codes: invalid where one did not come, not_found for an upload that is over.
func (s *Service) Arrange(ctx context.Context, uploadID int64, blocks []string) error {
	if len(blocks) > MaxBlocks {
		return nimbus.Errorf(nimbus.CodeTooLarge, "%d blocks are too many, %d is the most", len(blocks), MaxBlocks)
	}
	ids, seen := make([]string, len(blocks)), make(map[string]bool, len(blocks))
	for i, b := range blocks {
		ids[i] = named + b
		if seen[b] {
			return nimbus.Errorf(nimbus.CodeInvalid, "block %.80q is twice in the list", b)
		}
		seen[b] = true
	}
	if err := s.store.ArrangeCache(ctx, uploadID, ids); err != nil {
		return fmt.Errorf("put blocks in order: %w", err)
	}
	return nil
}

// Commit makes the upload at a place an entry that can be found, when what came
// has that size. Twice the same is fine. Codes: invalid, forbidden, not_found,
// conflict for an entry of another size.
func (s *Service) Commit(ctx context.Context, c Caller, key, version string, size int64) (Entry, error) {
	if err := checkTheirs(version); err != nil {
		return Entry{}, err
	}
	p, err := c.place(key, version)
	if err != nil {
		return Entry{}, err
	}
	id, err := s.store.CacheAt(ctx, p)
	if err != nil {
		return Entry{}, fmt.Errorf("commit an entry: %w", err)
	}
	return s.commit(ctx, id, size)
}

// CommitUpload is Commit by the upload's id.
func (s *Service) CommitUpload(ctx context.Context, c Caller, uploadID, size int64) (Entry, error) {
	if err := s.CheckUpload(ctx, c, uploadID); err != nil {
		return Entry{}, err
	}
	return s.commit(ctx, uploadID, size)
}

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
	// What Save takes in is nobody's to add to or to finish: its id can be guessed.
	if p.OrgID != c.OrgID || p.Repo != c.Repo || p.Scope != c.Write || checkTheirs(p.Version) != nil {
		return nimbus.Errorf(nimbus.CodeNotFound, "there is no such upload")
	}
	return nil
}

func (s *Service) commit(ctx context.Context, id, size int64) (Entry, error) {
	if size < 0 {
		return Entry{}, nimbus.Errorf(nimbus.CodeInvalid, "an entry can't have %d bytes", size)
	}
	if size > s.limits.Entry {
		return Entry{}, s.tooLarge(size)
	}
	e, loose, err := s.store.CommitCache(ctx, id, size)
	if err != nil {
		return Entry{}, fmt.Errorf("commit an entry: %w", err)
	}
	s.credits.end(id)
	s.drop(ctx, e.OrgID, e.ID, loose...)
	return e, nil
}
