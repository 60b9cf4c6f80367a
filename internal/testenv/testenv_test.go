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

// childVariable makes this binary the victim of the test below.
const childVariable = "NIMBUS_TESTENV_CHILD"

func TestPostgresEndsWithAKilledTest(t *testing.T) {
	if os.Getenv(childVariable) != "" {
		os.Stdout.WriteString("\ndsn " + testenv.Postgres(t) + "\n")
		select {}
	}
	t.Parallel()
	testenv.Require(t, "postgres")
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestPostgresEndsWithAKilledTest$")
	child.Env = append(os.Environ(), childVariable+"=1")
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	dir := ""
	for lines := bufio.NewScanner(out); dir == "" && lines.Scan(); {
		if _, host, ok := strings.Cut(lines.Text(), "host="); ok {
			dir = strings.ReplaceAll(host, "%2F", "/")
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "data", "postmaster.pid")); err != nil {
		t.Errorf("the server of the child: %v", err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = child.Wait() // ends by SIGKILL, which is an error
	deadline := time.Now().Add(30 * time.Second)
	for {
		if _, err := os.Stat(dir); os.IsNotExist(err) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is left behind", dir)
		}
		time.Sleep(10 * time.Millisecond) // poll: nothing signals the end of a grandchild
	}
}
