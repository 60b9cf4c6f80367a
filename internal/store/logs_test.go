package store_test

import (
	"path/filepath"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/logs/logstest"
	"github.com/nimbus-ci/nimbus/internal/store"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// TestLogs: the database keeps logs as files do.
func TestLogs(t *testing.T) {
	t.Parallel()
	for name, dsn := range map[string]func(*testing.T) string{
		"sqlite":   func(t *testing.T) string { return "sqlite:" + filepath.Join(t.TempDir(), "nimbus.db") },
		"postgres": func(t *testing.T) string { return testenv.Postgres(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, err := store.Open(t.Context(), store.Config{DSN: dsn(t)})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { db.Close() })
			logstest.Run(t, func() logstest.Store {
				lines, err := db.Logs(1<<30, store.WithOutbox())
				if err != nil {
					t.Fatal(err)
				}
				return lines
			})
		})
	}
}
