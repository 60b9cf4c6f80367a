package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/pressly/goose/v3"
	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
)

// keptCopies is how many copies from before migrations are kept.
const keptCopies = 3

// keepBefore keeps a copy of the database in a folder before its tables change,
// and returns its path; "" where there is nothing to keep.
func (s *Store) keepBefore(ctx context.Context, provider *goose.Provider, dir string) (string, error) {
	if dir == "" {
		return "", nil
	}
	current, target, err := provider.GetVersions(ctx)
	if err != nil || current == 0 || current >= target {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("keep a copy of the database: %w", err)
	}
	if err := s.checkRoom(ctx, dir); err != nil {
		return "", err
	}
	path := filepath.Join(dir, fmt.Sprintf("%s-schema-%d.db", time.Now().UTC().Format("20060102T150405.000"), current))
	err = copyInto(ctx, s.writer, path+".tmp")
	if err == nil {
		_, err = checkCopy(ctx, path+".tmp")
	}
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("keep a copy of the database: %w", err), os.RemoveAll(path+".tmp"))
	}
	return path, removeOld(dir)
}

// checkRoom refuses to begin what would fill the disk half-way.
func (s *Store) checkRoom(ctx context.Context, dir string) error {
	var pages, size int64
	if err := errors.Join(s.writer.QueryRowContext(ctx, "PRAGMA page_count").Scan(&pages),
		s.writer.QueryRowContext(ctx, "PRAGMA page_size").Scan(&size)); err != nil {
		return fmt.Errorf("measure the database: %w", err)
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(dir, &disk); err != nil {
		return fmt.Errorf("measure the disk: %w", err)
	}
	need := 2 * pages * size // the copy, and what the migration writes
	if free := int64(disk.Bavail) * disk.Bsize; free < need {
		return nimbus.Errorf(nimbus.CodeUnavailable, "there is no room to keep the database before its tables change: %d MiB are free, %d are needed",
			free>>20, need>>20).WithHint("make room on the disk of %s", dir)
	}
	return nil
}

// removeOld removes copies but for the newest.
func removeOld(dir string) error {
	found, err := filepath.Glob(filepath.Join(dir, "*-schema-*.db"))
	if err != nil {
		return fmt.Errorf("remove old copies: %w", err)
	}
	slices.Sort(found) // their names begin with the time
	for len(found) > keptCopies {
		if err := os.Remove(found[0]); err != nil {
			return fmt.Errorf("remove old copies: %w", err)
		}
		found = found[1:]
	}
	return nil
}

// wayBack tells how to leave a migration that failed.
func wayBack(err error, kept string) error {
	if err == nil || kept == "" {
		return err
	}
	return nimbus.Errorf(nimbus.CodeInternal, "the tables could not be changed: %w", err).
		WithHint("the database from before is kept: with the version of Nimbus from before, `nimbus restore --force %s`", kept)
}
