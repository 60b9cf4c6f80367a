package store_test

import (
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store/storetest"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// TestWhatGitHubSaidIsAdvancedOnce: of two transactions that bring what GitHub
// said of a job forward, one has to begin again and find it there. (SQLite has
// one writer at a time.)
func TestWhatGitHubSaidIsAdvancedOnce(t *testing.T) {
	t.Parallel()
	testenv.Require(t, "postgres")
	ctx, s := t.Context(), open(t, storetest.Postgres(t))
	advance := func(tx scheduler.Tx, status nimbus.ForgeStatus) bool {
		forward, err := tx.AdvanceForgeJob(ctx, &nimbus.ForgeEvent{Status: status, Job: nimbus.GitHubJob{JobID: 1}})
		if err != nil {
			t.Error(err)
		}
		return forward
	}
	var forward []bool
	err := s.Update(ctx, func(tx scheduler.Tx) error {
		forward = append(forward, advance(tx, nimbus.ForgeInProgress))
		if len(forward) > 1 {
			return nil
		}
		return s.Update(ctx, func(other scheduler.Tx) error { // and is faster
			advance(other, nimbus.ForgeCompleted)
			return nil
		})
	})
	if err != nil || len(forward) != 2 || !forward[0] || forward[1] {
		t.Errorf("it was forward %v, %v; want one that is begun again and is not", forward, err)
	}
}
