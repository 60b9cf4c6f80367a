package testenv_test

import (
	"database/sql"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// query returns the one value that a statement has.
func query(t *testing.T, dsn, statement string) (value string) {
	t.Helper()
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRowContext(t.Context(), statement).Scan(&value); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	return value
}

func TestServerIsDurableAndCopiesDatabases(t *testing.T) {
	t.Parallel()
	testenv.Require(t, "postgres")
	s, err := testenv.StartPostgres("work_mem = 5MB\n")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	first, err := s.Create(t.Context(), "first", "")
	if err != nil {
		t.Fatal(err)
	}
	for setting, want := range map[string]string{"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "work_mem": "5MB"} {
		if got := query(t, first, "SHOW "+setting); got != want {
			t.Errorf("%s is %s, want %s", setting, got, want)
		}
	}
	query(t, first, "SELECT lo_put(lo_create(7), 0, 'here')::text")
	second, err := s.Create(t.Context(), "second", "first")
	if err != nil {
		t.Fatal(err)
	}
	if got := query(t, second, "SELECT convert_from(lo_get(7), 'UTF8')"); got != "here" {
		t.Errorf("the copy has %q", got)
	}
}
