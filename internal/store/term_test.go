package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/leader"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// TestAStaleLeaderChangesNothing: whatever a leader writes with, it is refused
// once its lease is over, and once somebody else leads.
func TestAStaleLeaderChangesNothing(t *testing.T) {
	t.Parallel()
	for name, dsn := range map[string]func(*testing.T) string{
		"sqlite": sqliteDSN, "postgres": func(t *testing.T) string { return testenv.Postgres(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, dsn(t))
			leading := elect(t, s) // and renews its lease no more, which would begin a term anew
			tryWrites(leading, t, s, "")
			offset(t, s, electedFor)
			tryWrites(leading, t, s, nimbus.CodeFenced)
			if fence, leads, err := s.Lead(t.Context(), "work", "another", leader.Lease); fence != 2 || !leads || err != nil {
				t.Errorf("another leads: %v in term %d, %v", leads, fence, err)
			}
			tryWrites(leading, t, s, nimbus.CodeFenced)
		})
	}
}

// tryWrites does what leaders do, of each kind one.
func tryWrites(ctx context.Context, t *testing.T, s *store.Store, want nimbus.Code) {
	t.Helper()
	nothing := func(scheduler.Tx) error { return nil }
	for what, err := range map[string]error{
		"the scheduler's": s.Update(ctx, nothing),
		"blobs":           s.Blobs().Sweep(ctx),
		"tokens":          s.PurgeTokens(ctx, time.Hour),
	} {
		if got := nimbus.ErrorCode(err); err == nil && want != "" || err != nil && got != want {
			t.Errorf("%s: %v, want code %q", what, err, want)
		}
	}
}
