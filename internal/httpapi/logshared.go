package httpapi

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
)

// sharedTimeout bounds a read that many wait for: it does not end with the one of
// them who came first.
const sharedTimeout = 30 * time.Second

// sharedLog reads once for all who want the same page at the same time: those who follow
// one job are all at its end, and awake together. Nobody changes what they get.
type sharedLog struct {
	store logs.Reader
	reads singleflight.Group
}

var _ logs.Fresher = (*sharedLog)(nil)

// newSharedLog returns a reader of a store for those who follow.
func newSharedLog(store logs.Reader) *sharedLog { return &sharedLog{store: store} }

// Fresh implements logs.Fresher.
func (s *sharedLog) Fresh() logs.Reader { return s.store }

// Read implements logs.Reader.
func (s *sharedLog) Read(ctx context.Context, key nimbus.LogKey, from int64, limit int) ([]nimbus.Line, error) {
	read := s.reads.DoChan(fmt.Sprintf("%s/%s/%d/%d", key.OrgID, key.AttemptID, from, limit), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sharedTimeout)
		defer cancel()
		return s.store.Read(ctx, key, from, limit)
	})
	select {
	case r := <-read:
		lines, _ := r.Val.([]nimbus.Line)
		return lines, r.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
