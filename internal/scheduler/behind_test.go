package scheduler_test

import (
	"database/sql"
	"strings"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	_ "modernc.org/sqlite"             // the driver "sqlite"

	"github.com/nimbus-ci/nimbus"
)

func engineOf(w *world) string {
	engine, _, _ := strings.Cut(w.dsn, ":")
	return engine
}

// behind changes the database behind the store's back.
func (w *world) behind(text string, args ...any) {
	w.t.Helper()
	driver, dsn := "pgx", w.dsn
	if path, ok := strings.CutPrefix(w.dsn, "sqlite:"); ok {
		driver, dsn = "sqlite", "file:"+path+"?_pragma=busy_timeout(10000)"
	}
	db, err := sql.Open(driver, dsn)
	w.must(err)
	defer db.Close()
	_, err = db.ExecContext(w.t.Context(), text, args...)
	w.must(err)
}

// org adds an org.
func (w *world) org(name string) string {
	w.t.Helper()
	now, err := w.store.Now(w.t.Context())
	w.must(err)
	id := nimbus.NewID(nimbus.PrefixOrg, now)
	w.behind("INSERT INTO orgs (id, name, created_at) VALUES ($1, $2, 0)", id, name)
	return id
}
