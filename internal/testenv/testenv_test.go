package testenv_test

import (
	"bufio"
	"database/sql"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/testenv"
)

func TestPostgresDatabasesAreFreshAndApart(t *testing.T) {
	t.Parallel()
	for range 2 {
		db, err := sql.Open("pgx", testenv.Postgres(t))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.ExecContext(t.Context(), "CREATE TABLE only_here (id TEXT)"); err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
}

// childVariable makes this binary the victim of the tests below.
const childVariable = "NIMBUS_TESTENV_CHILD"

func TestPostgresEndsWithAKilledTest(t *testing.T) {
	dirOf := func(dsn string) string {
		_, host, _ := strings.Cut(dsn, "host=")
		return filepath.Join(strings.ReplaceAll(host, "%2F", "/"), "data")
	}
	testenv.Require(t, "postgres")
	endsWithTest(t, func() string { return dirOf(testenv.Postgres(t)) })
}

func TestProgramsEndWithAKilledTest(t *testing.T) {
	endsWithTest(t, func() string { return testenv.Program(t, "internal/executor/microvm/testdata/random") })
}

// TestProgramsAreBuiltOnce: linking is most of what a short test would take.
func TestProgramsAreBuiltOnce(t *testing.T) {
	t.Parallel()
	const pkg = "internal/executor/microvm/testdata/random"
	path := testenv.Program(t, pkg)
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	again := testenv.Program(t, pkg)
	if after, err := os.Stat(again); err != nil || again != path || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("%s, then %s: %v", path, again, err)
	}
	if out, err := exec.CommandContext(t.Context(), path).Output(); err != nil || len(out) == 0 {
		t.Errorf("it says %q, %v", out, err)
	}
}

// endsWithTest has a child run this very test up to what create makes, kills it, and
// waits until that is gone. Create returns a path
// that is there as long.
func endsWithTest(t *testing.T, create func() string) {
	t.Helper()
	if os.Getenv(childVariable) != "" {
		os.Stdout.WriteString("\nmade " + create() + "\n")
		select {}
	}
	t.Parallel()
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	child.Env = append(os.Environ(), childVariable+"=1")
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	path := ""
	for lines := bufio.NewScanner(out); path == "" && lines.Scan(); {
		if made, ok := strings.CutPrefix(lines.Text(), "made "); ok {
			path = made
		}
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("what the child made: %v", err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = child.Wait() // ends by SIGKILL, which is an error
	deadline := time.Now().Add(2 * time.Minute)
	for {
		if _, err := os.Stat(path); os.IsNotExist(err) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is left behind", path)
		}
		time.Sleep(10 * time.Millisecond) // poll: nothing signals the end of a grandchild
	}
}
