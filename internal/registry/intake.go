package registry

import (
	"context"
	"fmt"
	"hash"
	"io"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
)

const (
	// claimStep is how many bytes are claimed at once of what comes without a size.
	claimStep = 8 << 20
	// usageFor is how long what an org uses is remembered. It decides whether bytes
	// are taken in; whether they are kept, the books do.
	usageFor = time.Second
	// mostOrgs is of how many it is remembered.
	mostOrgs = 10_000
)

// room is what orgs use, and what comes for them to this replica.
type room struct {
	mu   sync.Mutex
	orgs map[string]*held
}

type held struct {
	used, quota int64
	asked       time.Time
	coming      int64
}

// claim counts bytes that come for an org, before they do. Those of mirrors are counted
// by who fetches them, which makes room first. Codes: too_large.
func (s *Service) claim(ctx context.Context, orgID string, n int64) error {
	if err := s.askUsage(ctx, orgID); err != nil {
		return err
	}
	s.room.mu.Lock()
	defer s.room.mu.Unlock()
	h := s.room.of(orgID)
	if h.used+h.coming+n > h.quota {
		return QuotaFull(orgID, h.used+h.coming, h.quota)
	}
	h.coming += n
	return nil
}

// QuotaFull is the refusal of bytes for which an account has no room.
func QuotaFull(account string, used, quota int64) error {
	if IsMirrored(account) {
		return &RefusalError{Denied, nimbus.Errorf(nimbus.CodeTooLarge, "the mirrors of the org have no room: %d of %d bytes are used by what is here and what comes", used, quota).
			WithHint("what was not used for longest makes room by itself, so this is more than fits at once; the server's operator sets that: --registry-mirror-quota")}
	}
	return &RefusalError{Denied, nimbus.Errorf(nimbus.CodeTooLarge, "the quota of the org's registry is full: %d of %d bytes are used", used, quota).
		WithHint("`nimbus registry ls` tells what is in it, `nimbus registry rm` removes images; an administrator may raise the quota")}
}

func (r *room) of(orgID string) *held {
	h, ok := r.orgs[orgID]
	if !ok {
		if len(r.orgs) >= mostOrgs {
			for id, other := range r.orgs {
				if other.coming == 0 {
					delete(r.orgs, id)
				}
			}
		}
		h = &held{}
		r.orgs[orgID] = h
	}
	return h
}

// askUsage looks what an org uses, unless that is known.
func (s *Service) askUsage(ctx context.Context, orgID string) error {
	now := s.clock.Now()
	s.room.mu.Lock()
	fresh := now.Sub(s.room.of(orgID).asked) < usageFor
	s.room.mu.Unlock()
	if fresh {
		return nil
	}
	u, err := s.store.RegistryUsage(ctx, orgID)
	if err != nil {
		return fmt.Errorf("look what an org uses: %w", err)
	}
	u = s.usual(u)
	s.room.mu.Lock()
	defer s.room.mu.Unlock()
	h := s.room.of(orgID)
	h.used, h.quota, h.asked = u.Bytes, u.Quota, now
	return nil
}

func (s *Service) unclaim(orgID string, n int64) {
	s.room.mu.Lock()
	defer s.room.mu.Unlock()
	s.room.of(orgID).coming -= n
}

// intake is what comes of a blob: counted, and hashed by the blob's own hash, so
// that the place where it is stored need not hash it again.
type intake struct {
	ctx     context.Context //nolint:containedctx // an io.Reader gets none
	service *Service
	org     string
	from    io.Reader
	size    int64 // -1: not known
	most    int64 // that may come at all
	sum     hash.Hash
	claimed int64
	came    int64
	err     error // why no more is taken
}

// Unhashed implements blob.Unhashed.
func (*intake) Unhashed() {}

// claim counts the next bytes.
func (in *intake) claim() error {
	if IsMirrored(in.org) {
		in.claimed = in.most
		return nil
	}
	step := in.size - in.claimed
	if in.size < 0 {
		step = min(claimStep, max(0, in.most-in.claimed))
	}
	if err := in.service.claim(in.ctx, in.org, step); err != nil {
		return err
	}
	in.claimed += step
	return nil
}

// Read implements io.Reader.
func (in *intake) Read(p []byte) (int, error) {
	if in.err != nil {
		return 0, in.err
	}
	n, err := in.from.Read(p)
	in.sum.Write(p[:n])
	in.came += int64(n)
	if in.size < 0 && in.came > in.claimed {
		if in.err = in.claim(); in.err != nil {
			return 0, in.err
		}
	}
	return n, err //nolint:wrapcheck // an io.Reader's error is its own
}

// close gives back what was claimed: from now on the books have it.
func (in *intake) close() {
	if !IsMirrored(in.org) {
		in.service.unclaim(in.org, in.claimed)
	}
}
