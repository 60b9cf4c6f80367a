package store_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/store"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// onBothEngines runs f with an empty store of each engine.
func onBothEngines(t *testing.T, f func(t *testing.T, s *store.Store)) {
	t.Helper()
	engines := map[string]func(*testing.T) string{
		"sqlite":   func(t *testing.T) string { return "sqlite:" + filepath.Join(t.TempDir(), "nimbus.db") },
		"postgres": func(t *testing.T) string { return testenv.Postgres(t) },
	}
	for name, dsn := range engines {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, open(t, dsn(t)))
		})
	}
}

func open(t *testing.T, dsn string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestOffsetClockMovesNow(t *testing.T) {
	t.Parallel()
	onBothEngines(t, func(t *testing.T, s *store.Store) {
		if err := s.OffsetClock(t.Context(), time.Hour); err != nil {
			t.Fatal(err)
		}
		now, err := s.Now(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if ahead := time.Until(now); ahead < 59*time.Minute || ahead > time.Hour {
			t.Errorf("the clock is ahead by %v, want an hour", ahead)
		}
	})
}
