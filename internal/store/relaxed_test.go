package store

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// TestRelaxed: a transaction that does not wait for the disk is the only one that
// doesn't, however it ends.
func TestRelaxed(t *testing.T) {
	t.Parallel()
	s, err := Open(t.Context(), Config{DSN: "sqlite:" + filepath.Join(t.TempDir(), "nimbus.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	const normal, full = 1, 2
	level := func(ctx context.Context, write func(context.Context, func(*tx) error) error, end error) (level int) {
		t.Helper()
		err := write(ctx, func(t *tx) error {
			err := t.db.QueryRowContext(ctx, "PRAGMA synchronous").Scan(&level)
			return errors.Join(err, end)
		})
		if !errors.Is(err, end) {
			t.Fatal(err)
		}
		return level
	}
	failed := errors.New("failed")
	for what, end := range map[string]error{"committed": nil, "rolled back": failed} {
		if got := level(t.Context(), s.writeRelaxed, end); got != normal {
			t.Errorf("relaxed, and %s: %d", what, got)
		}
		if got := level(t.Context(), s.write, nil); got != full {
			t.Errorf("the one after what was relaxed and %s: %d", what, got)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	_ = s.writeRelaxed(gone, func(*tx) error { cancel(); return gone.Err() })
	if got := level(t.Context(), s.write, nil); got != full {
		t.Errorf("after one whose caller has gone: %d", got)
	}
}

// TestRelaxedOnPostgres: what was written is there, and a transaction that can't be
// committed is none.
func TestRelaxedOnPostgres(t *testing.T) {
	t.Parallel()
	s, err := Open(t.Context(), Config{DSN: testenv.Postgres(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	add := func(t *tx, org string) error {
		_, err := t.db.ExecContext(context.Background(), "INSERT INTO cache_usage (org_id, repo) VALUES ($1, '*')", org)
		return err
	}
	if err := s.writeRelaxed(t.Context(), func(t *tx) error { return add(t, "one") }); err != nil {
		t.Fatal(err)
	}
	err = s.writeRelaxed(t.Context(), func(t *tx) error {
		if err := add(t, "two"); err != nil {
			return err
		}
		_, _ = t.db.ExecContext(context.Background(), "SELECT 1/0") // from then on nothing of it can be
		return nil
	})
	if err == nil {
		t.Error("what can't be committed is told as committed")
	}
	for org, want := range map[string]int{"one": 1, "two": 0} {
		var n int
		if err := s.reader.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM cache_usage WHERE org_id = $1", org).Scan(&n); err != nil || n != want {
			t.Errorf("%s: %d, %v", org, n, err)
		}
	}
}
