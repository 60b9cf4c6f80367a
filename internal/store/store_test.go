package store_test

import (
	"database/sql"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store"
	"github.com/nimbus-ci/nimbus/internal/store/storetest"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

func sqliteDSN(t *testing.T) string { return "sqlite:" + filepath.Join(t.TempDir(), "nimbus.db") }

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

func TestConformance(t *testing.T) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		storetest.Run(t, func(t *testing.T) storetest.Store { return open(t, storetest.SQLite(t)) })
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		storetest.Run(t, func(t *testing.T) storetest.Store { return open(t, storetest.Postgres(t)) })
	})
}

func TestCacheConformance(t *testing.T) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		storetest.RunCache(t, func(t *testing.T) storetest.CacheStore { return open(t, storetest.SQLite(t)) })
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		storetest.RunCache(t, func(t *testing.T) storetest.CacheStore { return open(t, storetest.Postgres(t)) })
	})
}

func TestRegistryConformance(t *testing.T) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		storetest.RunRegistry(t, func(t *testing.T) storetest.RegistryStore { return open(t, storetest.SQLite(t)) })
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		storetest.RunRegistry(t, func(t *testing.T) storetest.RegistryStore { return open(t, storetest.Postgres(t)) })
	})
}

func TestWhatIsCommittedSurvivesAReopen(t *testing.T) {
	t.Parallel()
	for name, dsn := range map[string]string{"sqlite": sqliteDSN(t), "postgres": testenv.Postgres(t)} {
		first, err := store.Open(t.Context(), store.Config{DSN: dsn})
		if err != nil {
			t.Fatal(err)
		}
		err = first.Update(t.Context(), func(tx scheduler.Tx) error {
			_, err := tx.MintFences(t.Context(), 1, 0)
			return err
		})
		if err := errors.Join(err, first.Close()); err != nil {
			t.Fatal(err)
		}
		err = open(t, dsn).Update(t.Context(), func(tx scheduler.Tx) error {
			fence, err := tx.MintFences(t.Context(), 1, 0)
			if fence != 2 {
				t.Errorf("%s: the fence is %d after a reopen, want 2", name, fence)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// Replicas start at the same time.
func TestTwoOpenOneDatabaseAtOnce(t *testing.T) {
	t.Parallel()
	for name, dsn := range map[string]string{"sqlite": sqliteDSN(t), "postgres": testenv.Postgres(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for range 4 {
				t.Run("replica", func(t *testing.T) { t.Parallel(); open(t, dsn) })
			}
		})
	}
}

func TestOpenRefusesWhatIsNoDatabase(t *testing.T) {
	t.Parallel()
	for dsn, code := range map[string]nimbus.Code{
		"mysql://root:secret@host": nimbus.CodeInvalid,
		"":                         nimbus.CodeInvalid,
		"postgres://u:secret@127.0.0.1:1/none?connect_timeout=2": nimbus.CodeUnavailable,
	} {
		s, err := store.Open(t.Context(), store.Config{DSN: dsn})
		if err == nil {
			t.Errorf("%q opens", dsn)
			s.Close()
			continue
		}
		if got := nimbus.ErrorCode(err); got != code || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %s %v", dsn, got, err)
		}
	}
}

// TestCurrent: a database that lacks a migration, as one that was put back from
// an older backup under a running server, is told from one that has more.
func TestCurrent(t *testing.T) {
	t.Parallel()
	for driver, dsn := range map[string]string{"sqlite": sqliteDSN(t), "pgx": testenv.Postgres(t)} {
		s := open(t, dsn)
		db, err := sql.Open(driver, strings.TrimPrefix(dsn, "sqlite:"))
		if err != nil {
			t.Fatal(err)
		}
		change := func(statement string) {
			t.Helper()
			if _, err := db.ExecContext(t.Context(), statement); err != nil {
				t.Fatal(err)
			}
		}
		change("INSERT INTO goose_db_version (version_id, is_applied) VALUES (99999, TRUE)")
		if err := s.Current(t.Context()); err != nil {
			t.Errorf("%s: a newer database: %v", driver, err)
		}
		change("DELETE FROM goose_db_version WHERE version_id = 3")
		if err := s.Current(t.Context()); nimbus.ErrorCode(err) != nimbus.CodeUnavailable {
			t.Errorf("%s: an older database: %v", driver, err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
}
