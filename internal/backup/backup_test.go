package backup

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/store"
)

// dieAt names the step of a restore at which the process is killed.
const dieAt = "NIMBUS_TEST_DIE_AT"

// books is a data directory with a database that is open, as a server has it.
type books struct {
	*store.Store
	data string
}

func open(t *testing.T, data string) *books {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{DSN: "sqlite:" + filepath.Join(data, database)})
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return &books{s, data}
}

// fence mints fencing tokens: n has the name of what was written last.
func (b *books) fence(t *testing.T, n int) (last int64) {
	t.Helper()
	err := b.Update(t.Context(), func(tx scheduler.Tx) (err error) {
		last, err = tx.MintFences(t.Context(), n, 0)
		return err
	})
	must(t, err)
	return last
}

// hosts are the names of all: on a quick disk there are more than one page has, and
// where that ends may be within a pair.
func (b *books) hosts(t *testing.T) (names []string) {
	t.Helper()
	must(t, b.View(t.Context(), func(r scheduler.Reader) error {
		for after := ""; ; {
			hosts, err := r.Hosts(t.Context(), after, 1000)
			if err != nil || len(hosts) == 0 {
				return err
			}
			for _, h := range hosts {
				names, after = append(names, h.Name), h.ID
			}
		}
	}))
	return names
}

func (b *books) add(ctx context.Context, names ...string) error {
	return b.Update(ctx, func(tx scheduler.Tx) error {
		for _, name := range names {
			if err := tx.InsertHost(ctx, nimbus.Host{ID: nimbus.NewID(nimbus.PrefixHost, tx.Now()), Name: name}); err != nil {
				return err
			}
		}
		return nil
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o700))
	must(t, os.WriteFile(path, []byte(text), 0o600))
}

func text(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		return "-"
	}
	return string(raw)
}

func backupOf(t *testing.T, data string, o Options) string {
	t.Helper()
	o.Data, o.File, o.Now = data, filepath.Join(t.TempDir(), "nimbus.backup"), time.Now()
	_, err := Write(t.Context(), o)
	must(t, err)
	return o.File
}

// TestABackupUnderWrites: hosts come in pairs, and no backup has half of one.
func TestABackupUnderWrites(t *testing.T) {
	t.Parallel()
	b := open(t, t.TempDir())
	fence := b.fence(t, 7)
	must(t, b.add(t.Context(), "first", "first"))
	ctx, stop := context.WithCancel(t.Context())
	ended, begun := make(chan error, 1), make(chan struct{})
	go func() {
		for i := 0; ctx.Err() == nil; i++ {
			if err := b.add(context.WithoutCancel(ctx), fmt.Sprint(i), fmt.Sprint(i)); err != nil {
				ended <- err
				return
			}
			if i == 3 {
				close(begun)
			}
		}
		ended <- nil
	}()
	<-begun
	for range 3 {
		file := backupOf(t, b.data, Options{})
		info, err := os.Stat(file)
		must(t, err)
		if info.Mode().Perm() != 0o600 {
			t.Errorf("others may read the backup: %v", info.Mode())
		}
		data := t.TempDir()
		_, err = Restore{Data: data, File: file, Now: time.Now()}.Run(t.Context())
		must(t, err)
		restored := open(t, data)
		count := map[string]int{}
		for _, name := range restored.hosts(t) {
			count[name]++
		}
		if len(count) < 4 {
			t.Errorf("only %d pairs came back", len(count))
		}
		for name, n := range count {
			if n != 2 {
				t.Errorf("%d of the pair %s came back", n, name)
			}
		}
		if again := restored.fence(t, 1); again <= fence+1000 {
			t.Errorf("the fencing token %d may have been given before", again)
		}
	}
	stop()
	must(t, <-ended)
}

// TestWhatIsInABackup: the key only when asked for, logs likewise, nothing
// readable by others, and nothing left beside it.
func TestWhatIsInABackup(t *testing.T) {
	t.Parallel()
	b := open(t, t.TempDir())
	write(t, filepath.Join(b.data, masterKey), "key")
	write(t, filepath.Join(b.data, adminToken), "token")
	write(t, filepath.Join(b.data, logs, "org", "attempt.log"), "lines")
	for _, o := range []Options{{}, {Keys: true}, {Logs: true}, {Keys: true, Logs: true}} {
		file, data := backupOf(t, b.data, o), t.TempDir()
		got, err := Restore{Data: data, File: file, Now: time.Now()}.Run(t.Context())
		must(t, err)
		want := map[bool]string{true: "key", false: "-"}[o.Keys] + map[bool]string{true: "token", false: "-"}[o.Keys] + map[bool]string{true: "lines", false: "-"}[o.Logs]
		has := text(t, filepath.Join(data, masterKey)) + text(t, filepath.Join(data, adminToken)) + text(t, filepath.Join(data, logs, "org", "attempt.log"))
		if has != want || got.Keys != o.Keys || got.Aside != "" {
			t.Errorf("%+v brought back %q and %+v", o, has, got)
		}
		for _, dir := range []string{filepath.Dir(file), data} {
			left, err := filepath.Glob(filepath.Join(dir, ".*"))
			must(t, err)
			if len(left) > 0 {
				t.Errorf("left over: %v", left)
			}
		}
	}
	if _, err := Write(t.Context(), Options{Data: t.TempDir(), File: filepath.Join(t.TempDir(), "x")}); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		t.Errorf("a backup of nothing: %v", err)
	}
}

// TestWhatIsNotRestored: a data directory that is in use, what is no whole
// backup, and what a newer Nimbus made.
func TestWhatIsNotRestored(t *testing.T) {
	t.Parallel()
	b := open(t, t.TempDir())
	must(t, b.add(t.Context(), "old"))
	file := backupOf(t, b.data, Options{})
	restore := func(data, file string) error {
		_, err := Restore{Data: data, File: file, Now: time.Now()}.Run(t.Context())
		return err
	}
	if err := restore(b.data, file); nimbus.ErrorCode(err) != nimbus.CodeConflict || !strings.Contains(nimbus.ErrorHint(err), "--force") {
		t.Errorf("over what is there: %v", err)
	}
	raw, err := os.ReadFile(file)
	must(t, err)
	damaged := append([]byte{}, raw...)
	damaged[len(damaged)/2] ^= 0x40
	for what, content := range map[string]string{"empty": "", "text": "hello", "half": string(raw[:len(raw)/2]), "damaged": string(damaged)} {
		bad, data := filepath.Join(t.TempDir(), "bad"), t.TempDir()
		write(t, bad, content)
		if err := restore(data, bad); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
			t.Errorf("%s: %v", what, err)
		}
		if left, err := os.ReadDir(data); err != nil || len(left) > 0 {
			t.Errorf("%s left %v, %v", what, left, err)
		}
	}
	newer := t.TempDir()
	must(t, open(t, newer).Close())
	db, err := sql.Open("sqlite", filepath.Join(newer, database))
	must(t, err)
	_, err = db.ExecContext(t.Context(), "INSERT INTO goose_db_version (version_id, is_applied) VALUES (?, 1)", store.LatestSchema()+1)
	must(t, errors.Join(err, db.Close()))
	if err := restore(t.TempDir(), backupOf(t, newer, Options{})); nimbus.ErrorCode(err) != nimbus.CodeUnsupported || nimbus.ErrorHint(err) == "" {
		t.Errorf("of a newer Nimbus: %v", err)
	}
}

// TestADatabaseAloneIsRestored: one that was kept before a migration.
func TestADatabaseAloneIsRestored(t *testing.T) {
	t.Parallel()
	b := open(t, t.TempDir())
	must(t, b.add(t.Context(), "kept"))
	file := filepath.Join(t.TempDir(), "kept.db")
	_, err := store.CopySQLite(t.Context(), filepath.Join(b.data, database), file)
	must(t, err)
	data := t.TempDir()
	_, err = Restore{Data: data, File: file, Now: time.Now()}.Run(t.Context())
	must(t, err)
	if got := open(t, data).hosts(t); len(got) != 1 || got[0] != "kept" {
		t.Errorf("%v came back", got)
	}
}

// TestARestoreThatIsKilled leaves what was there or what is restored, whole,
// wherever it is killed; the next start ends it.
func TestARestoreThatIsKilled(t *testing.T) {
	t.Parallel()
	source := open(t, t.TempDir())
	must(t, source.add(t.Context(), "new"))
	write(t, filepath.Join(source.data, masterKey), "new")
	write(t, filepath.Join(source.data, logs, "a.log"), "new")
	file := backupOf(t, source.data, Options{Keys: true, Logs: true})
	steps := map[string]string{ // and what is there after the next start
		"extracted": "old", "prepared": "old", "noted": "new", "aside logs": "new", "placed logs": "new", "aside master.key": "new",
		"placed master.key": "new", "aside nimbus.db-wal": "new", "aside nimbus.db": "new", "placed nimbus.db": "new",
	}
	old := open(t, t.TempDir())
	must(t, old.add(t.Context(), "old"))
	for at, want := range steps {
		data := t.TempDir()
		for _, name := range []string{database, database + "-wal", database + "-shm"} { // as a killed server leaves them
			write(t, filepath.Join(data, name), text(t, filepath.Join(old.data, name)))
		}
		write(t, filepath.Join(data, masterKey), "old")
		write(t, filepath.Join(data, logs, "a.log"), "old")
		run := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestRestoreAndDie$", "-test.count=1")
		run.Env = append(os.Environ(), dieAt+"="+at, "NIMBUS_TEST_DATA="+data, "NIMBUS_TEST_FILE="+file)
		if out, err := run.CombinedOutput(); err == nil || run.ProcessState.ExitCode() != -1 {
			t.Fatalf("%s: it was not killed: %v\n%s", at, err, out)
		}
		must(t, Finish(data))
		must(t, Finish(data)) // is nothing to do any more
		got := open(t, data).hosts(t)
		if len(got) != 1 || got[0] != want || text(t, filepath.Join(data, masterKey)) != want || text(t, filepath.Join(data, logs, "a.log")) != want {
			t.Errorf("%s: hosts %v, key %s, log %s", at, got, text(t, filepath.Join(data, masterKey)), text(t, filepath.Join(data, logs, "a.log")))
		}
		for _, left := range []string{note, staging} {
			if there, err := exists(filepath.Join(data, left)); there || err != nil {
				t.Errorf("%s: %s is left, %v", at, left, err)
			}
		}
		aside, err := filepath.Glob(filepath.Join(data, "before-restore-*", database))
		must(t, err)
		if (len(aside) == 1) != (want == "new") {
			t.Errorf("%s: put aside %v", at, aside)
		}
	}
}

// TestRestoreAndDie is the process that TestARestoreThatIsKilled kills.
func TestRestoreAndDie(t *testing.T) {
	at := os.Getenv(dieAt)
	if at == "" {
		return // it has no end of its own to test
	}
	r := Restore{Data: os.Getenv("NIMBUS_TEST_DATA"), File: os.Getenv("NIMBUS_TEST_FILE"), Force: true, Now: time.Now(), step: func(name string) {
		if name == at {
			self, err := os.FindProcess(os.Getpid())
			must(t, err)
			must(t, self.Kill())
			select {}
		}
	}}
	_, err := r.Run(t.Context())
	must(t, err)
}
