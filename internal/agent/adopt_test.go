package agent

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// TestADamagedLogEndsItsAttemptAlone: one attempt of which the disk has lost
// something must not keep a host's agent, and with it all others, from starting.
func TestADamagedLogEndsItsAttemptAlone(t *testing.T) {
	t.Parallel()
	a := &Agent{cfg: Config{Data: t.TempDir()}, log: slog.New(slog.DiscardHandler), sealer: &sealer{key: make([]byte, keyBytes)}, attempts: map[string]*attempt{}}
	var ids []string
	for range 2 {
		id := nimbus.NewID(nimbus.PrefixAttempt, time.Now())
		at, err := a.newAttempt(nimbus.Assignment{Lease: nimbus.Lease{AttemptID: id}}, nimbus.Reservation{CPUs: 1}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if err := at.wal.Close(); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	for _, name := range []string{"000000000001.wal", "000000000002.wal"} {
		if err := os.WriteFile(filepath.Join(a.attemptsDir(), ids[0], "wal", name), []byte("what nobody wrote"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	found, err := a.loadAttempts(t.Context())
	if err != nil || len(found) != 1 || found[0].assign.AttemptID != ids[1] || !found[0].adopted {
		t.Fatalf("found %v, %v", found, err)
	}
	if err := found[0].wal.Close(); err != nil {
		t.Error(err)
	}
}
