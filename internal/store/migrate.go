package store

import (
	"context"
	"embed"
	"io/fs"
	"time"

	"github.com/pressly/goose/v3"
)

// Migrations run on both engines and only go forward.
//
//go:embed migrations/*.sql
var migrations embed.FS

// migrate brings the tables up to date. What was there before is kept in the
// folder backups, where that is named.
func (s *Store) migrate(ctx context.Context, files fs.FS, backups string) error {
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
	kept, err := s.keepBefore(ctx, provider, backups)
	if err != nil {
		return err
	}
	if err := up(ctx, provider); err != nil {
		return wayBack(err, kept)
	}
	return s.dialect.tune(ctx, s.writer)
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
