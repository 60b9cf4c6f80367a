package store

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/nimbus-ci/nimbus"
)

// Migrations run on both engines and only go forward.
//
//go:embed migrations/*.sql
var migrations embed.FS

// migrate brings the tables up to date, as the configuration has it.
func (s *Store) migrate(ctx context.Context, files fs.FS, cfg Config) error {
	if err := s.dialect.prepare(ctx, s.writer); err != nil {
		return err
	}
	dir, err := fs.Sub(files, "migrations")
	if err != nil {
		return err
	}
	name, options, err := s.dialect.migrations()
	if err != nil {
		return err
	}
	options = append(options, goose.WithDisableGlobalRegistry(true))
	provider, err := goose.NewProvider(name, s.writer, dir, options...)
	if err != nil {
		return err
	}
	if cfg.AsIs {
		return checkVersion(ctx, provider)
	}
	kept, err := s.keepBefore(ctx, provider, cfg.Backups)
	if err != nil {
		return err
	}
	if err := up(ctx, provider); err != nil {
		return wayBack(err, kept)
	}
	return s.dialect.tune(ctx, s.writer)
}

func checkVersion(ctx context.Context, provider *goose.Provider) error {
	current, target, err := provider.GetVersions(ctx)
	if err == nil && current != target {
		err = nimbus.Errorf(nimbus.CodeConflict, "the tables are of version %d, this program is for %d", current, target).
			WithHint("use the version of Nimbus that the server has")
	}
	return err
}

// Current tells whether the database has all migrations that this program
// knows; one that has more is of a newer program, and fine. It is an error
// where one is missing, as after an older backup was put back.
func (s *Store) Current(ctx context.Context) error {
	applied, err := s.applied(ctx)
	if err != nil {
		return interpret(err)
	}
	known, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return err
	}
	for _, file := range known {
		version, err := goose.NumericComponent(file)
		if err != nil {
			return fmt.Errorf("read the name of migration %s: %w", file, err)
		}
		if !applied[version] {
			return nimbus.Errorf(nimbus.CodeUnavailable, "the database has not got migration %d", version).
				WithHint("restart the server: it brings the tables up to date")
		}
	}
	return nil
}

// applied are the migrations that the database has, by goose's own table.
func (s *Store) applied(ctx context.Context) (map[int64]bool, error) {
	rows, err := s.reader.QueryContext(ctx, "SELECT version_id FROM goose_db_version WHERE is_applied")
	if err != nil {
		return nil, fmt.Errorf("read the migrations: %w", err)
	}
	defer rows.Close()
	applied := map[int64]bool{}
	for rows.Next() {
		var version int64
		if err := rows.Scan(&version); err != nil {
			return nil, fmt.Errorf("read a migration: %w", err)
		}
		applied[version] = true
	}
	return applied, rows.Err()
}

// migrateTries bounds how often migrations are begun again, migratePause is the
// time between.
const (
	migrateTries = 10
	migratePause = 50 * time.Millisecond
)

// up runs the migrations. Where the engine has no lock for them (SQLite), two
// processes may begin the same one: each is a transaction, the second fails as
// a whole, and finds it done when it looks again.
func up(ctx context.Context, provider *goose.Provider) error {
	for try := 1; ; try++ {
		_, err := provider.Up(ctx)
		if err == nil || try == migrateTries {
			return err
		}
		select {
		case <-time.After(migratePause):
		case <-ctx.Done():
			return err
		}
	}
}
