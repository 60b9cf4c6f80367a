package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"modernc.org/sqlite"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/identity"
)

// LatestSchema is the version of the tables that this program makes.
func LatestSchema() (latest int64) {
	names, _ := fs.Glob(migrations, "migrations/*.sql") // the pattern is well-formed
	for _, name := range names {
		digits, _, _ := strings.Cut(strings.TrimPrefix(name, "migrations/"), "_")
		if n, err := strconv.ParseInt(digits, 10, 64); err == nil {
			latest = max(latest, n)
		}
	}
	return latest
}

// CopySQLite writes one state of the SQLite database at path to a file of its
// own, for its owner's eyes alone, while others read and write it; and checks
// the copy. It changes nothing at path, and returns the version of its tables.
func CopySQLite(ctx context.Context, path, dest string) (schema int64, err error) {
	if _, err := os.Stat(path); err != nil {
		return 0, fmt.Errorf("open the database: %w", err)
	}
	db, err := openFile(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := copyInto(ctx, db, dest); err != nil {
		return 0, err
	}
	return checkCopy(ctx, dest)
}

// copyInto has SQLite write a copy of an open database.
func copyInto(ctx context.Context, db *sql.DB, dest string) error {
	f, err := os.OpenFile(dest, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600) // SQLite would make it for all to read
	if err != nil {
		return fmt.Errorf("copy the database: %w", err)
	}
	defer f.Close()
	if _, err := db.ExecContext(ctx, "VACUUM INTO $1", dest); err != nil {
		return errors.Join(fmt.Errorf("copy the database: %w", err), os.Remove(dest))
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("copy the database: %w", err)
	}
	return nil
}

func checkCopy(ctx context.Context, path string) (schema int64, err error) {
	db, err := openFile(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return checkFile(ctx, db)
}

// checkFile tells whether a database is whole, and the version of its tables.
func checkFile(ctx context.Context, db *sql.DB) (schema int64, err error) {
	var verdict string
	err = db.QueryRowContext(ctx, "PRAGMA integrity_check(1)").Scan(&verdict)
	if err == nil && verdict != "ok" {
		err = errors.New(verdict)
	}
	if err == nil {
		err = db.QueryRowContext(ctx, "SELECT COALESCE(MAX(version_id), 0) FROM goose_db_version WHERE is_applied").Scan(&schema)
	}
	if err != nil {
		return 0, nimbus.Errorf(nimbus.CodeInvalid, "this is no whole database of Nimbus: %w", err)
	}
	return schema, nil
}

// restoredFences is by how much the fencing tokens of a restored database are
// moved on: more than were given since it was copied.
const restoredFences = 1 << 40

// PrepareRestored makes a copy ready to go on from: none of the fencing tokens
// that were given since it was made is given again. Codes: invalid for a file
// that is no whole database, unsupported for one of a newer Nimbus.
func PrepareRestored(ctx context.Context, path string) (schema int64, err error) {
	db, err := openFile(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if schema, err = checkFile(ctx, db); err != nil {
		return 0, err
	}
	if latest := LatestSchema(); schema > latest {
		return 0, nimbus.Errorf(nimbus.CodeUnsupported, "this is the database of a newer Nimbus: its tables are version %d, and this program knows %d", schema, latest).
			WithHint("restore it with the version of Nimbus that made it, or a newer one")
	}
	if _, err := db.ExecContext(ctx, "UPDATE fence SET last = last + $1", int64(restoredFences)); err != nil {
		return 0, fmt.Errorf("move the fencing tokens on: %w", err)
	}
	return schema, nil
}

// SealedIn hands out what is sealed in the SQLite database at path, whatever the
// version of its tables.
func SealedIn(ctx context.Context, path string, each func(identity.SealedSecret) error) (err error) {
	db, err := openFile(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	rows, err := db.QueryContext(ctx, "SELECT org_id, name, sealed FROM secrets")
	if err != nil {
		return fmt.Errorf("look for what is sealed: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var s identity.SealedSecret
		if err := rows.Scan(&s.OrgID, &s.Name, &s.Sealed); err != nil {
			return fmt.Errorf("look for what is sealed: %w", err)
		}
		if err := each(s); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("look for what is sealed: %w", err)
	}
	return nil
}

// openFile opens a SQLite database that is there, without the settings and
// migrations of one that is served.
func openFile(path string) (*sql.DB, error) {
	drv := &sqlite.Driver{}
	err := drv.RegisterScalarFunction("nimbus_now", 0, func(*sqlite.FunctionContext, []driver.Value) (driver.Value, error) {
		return time.Now().UnixMicro(), nil
	})
	if err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	db := openDB(drv, path, url.Values{"mode": {"rw"}, "_pragma": {"busy_timeout(10000)"}})
	db.SetMaxOpenConns(1)
	return db, nil
}
