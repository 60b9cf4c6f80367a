package storetest

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/store"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// Postgres returns the URL of a fresh database whose tables are up to date, see
// testenv.Postgres.
func Postgres(t testing.TB) string {
	t.Helper()
	return migrated.Copy(t)
}

// SQLite returns the DSN of a fresh file whose tables are up to date.
func SQLite(t testing.TB) string {
	t.Helper()
	file, err := migratedFile()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "nimbus.db")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	return "sqlite:" + path
}

// What fresh databases are copies of, made once in a process: migrations are
// most of the time of a short test.
var (
	migrated     = testenv.NewTemplate(migrate)
	migratedFile = sync.OnceValues(func() ([]byte, error) {
		dir, err := os.MkdirTemp("", "nimbus-migrated-")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir)
		path := filepath.Join(dir, "nimbus.db")
		if err := migrate(context.Background(), "sqlite:"+path); err != nil {
			return nil, err
		}
		return os.ReadFile(path)
	})
)

func migrate(ctx context.Context, dsn string) error {
	s, err := store.Open(ctx, store.Config{DSN: dsn})
	if err != nil {
		return err
	}
	return s.Close()
}
