package store_test

import (
	"database/sql"
	"errors"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus/internal/logs"
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

// TestDamagedPage: a page that can't be read is told, and what lies before and behind it
// is there.
func TestDamagedPage(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "nimbus.db")
	db, err := store.Open(t.Context(), store.Config{DSN: "sqlite:" + file})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	lines, err := db.Logs(1 << 30)
	if err != nil {
		t.Fatal(err)
	}
	key := logstest.Key()
	for first := int64(1); first <= 21; first += 10 {
		if _, err := lines.Append(t.Context(), key, logstest.Lines(first, first+9)); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	if _, err := raw.ExecContext(t.Context(), "UPDATE log_pages SET lines = x'00' WHERE attempt_id = $1 AND first_seq = 11", key.AttemptID); err != nil {
		t.Fatal(err)
	}
	if got, err := lines.Read(t.Context(), key, 1, 30); err != nil || !cmp.Equal(got, logstest.Lines(1, 10)) {
		t.Errorf("what is before it: %v, %v", got, err)
	}
	var damaged *logs.DamagedError
	if got, err := lines.Read(t.Context(), key, 15, 30); !errors.As(err, &damaged) || damaged.First != 15 || damaged.Last != 20 {
		t.Errorf("read of it: %v, %v", got, err)
	}
	if got, err := lines.Read(t.Context(), key, 21, 30); err != nil || !cmp.Equal(got, logstest.Lines(21, 30)) {
		t.Errorf("what is behind it: %v, %v", got, err)
	}
}
