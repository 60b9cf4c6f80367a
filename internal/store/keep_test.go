package store

import (
	"context"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/nimbus-ci/nimbus"
)

// release is the migrations of a release: those up to now, or fewer, and more.
func release(t *testing.T, edit func(fstest.MapFS)) fs.FS {
	t.Helper()
	out := fstest.MapFS{}
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		raw, err := migrations.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = &fstest.MapFile{Data: raw}
	}
	edit(out)
	return out
}

func openFiles(ctx context.Context, t *testing.T, path, backups string, files fs.FS) (*Store, error) {
	t.Helper()
	s, err := openSQLite(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	s.flushes, s.seen = newFlushStatements(), &seenFlows{ids: map[string]struct{}{}}
	t.Cleanup(func() { s.Close() })
	return s, s.migrate(ctx, files, Config{Backups: backups})
}

func kept(t *testing.T, backups string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(backups, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestTheDatabaseIsKeptBeforeItChanges: what was there is in a copy, of which
// some are kept; a new database and one that is up to date need none.
func TestTheDatabaseIsKeptBeforeItChanges(t *testing.T) {
	t.Parallel()
	ctx, dir := t.Context(), t.TempDir()
	path, backups := filepath.Join(dir, "nimbus.db"), filepath.Join(dir, "backups")
	last := LatestSchema()
	for i := range 5 {
		files := release(t, func(f fstest.MapFS) {
			for n := range i {
				f[filepath.Join("migrations", string(rune('1'+n))+"0000_more.sql")] = &fstest.MapFile{Data: []byte("-- +goose Up\nCREATE TABLE more_" + string(rune('a'+n)) + " (n BIGINT);\n")}
			}
		})
		for range 2 {
			s, err := openFiles(ctx, t, path, backups, files)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if got := len(kept(t, backups)); got != min(i, keptCopies) {
			t.Errorf("after %d changes %d copies are kept", i, got)
		}
	}
	newest := kept(t, backups)[keptCopies-1]
	info, err := os.Stat(newest)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("others may read the copy: %v, %v", info, err)
	}
	schema, err := checkCopy(ctx, newest)
	if err != nil || schema != 30000 || schema <= last {
		t.Errorf("the newest copy has tables of version %d, %v", schema, err)
	}
}

// TestAMigrationThatFails tells how to go back, and what it was kept is whole.
func TestAMigrationThatFails(t *testing.T) {
	t.Parallel()
	ctx, dir := t.Context(), t.TempDir()
	path, backups := filepath.Join(dir, "nimbus.db"), filepath.Join(dir, "backups")
	before := release(t, func(f fstest.MapFS) {
		maps.DeleteFunc(f, func(name string, _ *fstest.MapFile) bool { return name > "migrations/00017" })
	})
	s, err := openFiles(ctx, t, path, backups, before)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = openFiles(ctx, t, path, backups, release(t, func(f fstest.MapFS) {
		f["migrations/99999_broken.sql"] = &fstest.MapFile{Data: []byte("-- +goose Up\nCREATE TABLE;\n")}
	}))
	copies := kept(t, backups)
	if err == nil || len(copies) != 1 || !strings.Contains(nimbus.ErrorHint(err), "nimbus restore --force "+copies[0]) {
		t.Fatalf("%v, hint %q, kept %v", err, nimbus.ErrorHint(err), copies)
	}
	if schema, err := PrepareRestored(ctx, copies[0]); err != nil || schema >= LatestSchema() {
		t.Errorf("the copy has tables of version %d, %v", schema, err)
	}
}
