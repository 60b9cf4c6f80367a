package store

import (
	"context"
	"fmt"
	"time"

	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// maxReplicas bounds how many are told of.
const maxReplicas = 1000

// Attend notes that a replica is here, and tells for how long each of them that
// was here within a time has been silent, itself before this included, by the
// database's clock; those from before are forgotten.
func (s *Store) Attend(ctx context.Context, id string, within time.Duration) (silent map[string]time.Duration, err error) {
	err = s.writeUnproved(ctx, func(t *tx) error {
		if err := t.ForgetReplicas(ctx, micros(t.now.Add(-within))); err != nil {
			return fmt.Errorf("forget replicas: %w", err)
		}
		rows, err := t.Replicas(ctx, maxReplicas)
		if err != nil {
			return fmt.Errorf("read which replicas are here: %w", err)
		}
		silent = map[string]time.Duration{}
		for _, r := range rows {
			silent[r.ID] = max(t.now.Sub(fromMicros(r.SeenAt)), 0)
		}
		if err := t.SeeReplica(ctx, gen.SeeReplicaParams{ID: id, SeenAt: micros(t.now)}); err != nil {
			return fmt.Errorf("note that this replica is here: %w", err)
		}
		return nil
	})
	return silent, err
}
