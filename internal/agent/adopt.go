package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/logs/wal"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// adoptAll tells the control plane what this host has, and goes on with the
// attempts that it may keep. The others are ended and reported, or if they are
// somebody else's now, removed without a word.
func (a *Agent) adoptAll(ctx context.Context) error {
	found, err := a.loadAttempts(ctx)
	if err != nil {
		return err
	}
	leases := make([]nimbus.Lease, 0, len(found))
	for _, t := range found {
		leases = append(leases, t.lease())
	}
	sent := time.Now()
	answer, err := call(ctx, a.control.Hello, &nimbusv1.HelloRequest{
		Version: a.cfg.Version, Inventory: wire.Inventory(a.inventory(ctx)), Leases: wire.Leases(leases),
	})
	if err != nil {
		return fmt.Errorf("greet the control plane: %w", err)
	}
	verdicts := map[string]nimbus.LeaseStatus{}
	for _, status := range wire.ToLeaseStatuses(answer.GetLeases()) {
		verdicts[status.AttemptID] = status
	}
	for _, t := range found {
		a.capacity.adopt(t.state.Reserved)
		_, over := t.state.outcome()
		switch verdict := verdicts[t.lease().AttemptID].Verdict; {
		case over && verdict != nimbus.VerdictKeep && verdict != nimbus.VerdictCancel:
			// Its log may still be wanted, whatever its lease is.
		case verdict == nimbus.VerdictKeep:
			t.renewed = sent
		case verdict == nimbus.VerdictCancel:
			t.renewed = sent
			t.end(errCancelled)
		default:
			t.end(errFenced)
		}
		a.log.InfoContext(ctx, "adopted", "job", t.assign.JobID, "attempt", t.assign.AttemptID)
	}
	a.add(ctx, found...)
	return nil
}

// loadAttempts reads the attempts of an earlier process. A folder that tells
// nothing is what a crash left of one that was never begun.
func (a *Agent) loadAttempts(ctx context.Context) ([]*attempt, error) {
	entries, err := os.ReadDir(a.attemptsDir())
	if err != nil {
		return nil, fmt.Errorf("list attempts: %w", err)
	}
	var found []*attempt
	for _, e := range entries {
		dir := filepath.Join(a.attemptsDir(), e.Name())
		s, as, err := loadState(dir)
		if err != nil {
			a.log.WarnContext(ctx, "remove an attempt that can't be read", "folder", e.Name(), "error", err)
			if err := os.RemoveAll(dir); err != nil {
				return nil, fmt.Errorf("remove attempt: %w", err)
			}
			continue
		}
		t, err := a.openAttempt(dir, as, s, time.Time{})
		if errors.Is(err, wal.ErrDamaged) {
			// Its lease runs out, and the sweep removes all of it; the other attempts
			// can do with an agent.
			a.log.ErrorContext(ctx, "give an attempt up whose log can't be read", "job", as.JobID, "attempt", as.AttemptID, "error", err)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("open attempt %s: %w", e.Name(), err)
		}
		t.adopted = true
		found = append(found, t)
	}
	return found, nil
}
