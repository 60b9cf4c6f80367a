// Package testenv gives tests the real things that they run against: it says
// which of them the machine has, and starts those that are servers.
//
// A test asks with Require and is skipped where something is missing, so that
// `go test ./...` is useful on any machine. Under NIMBUS_TEST_REQUIRE=all,
// which `make test` sets, missing means failing: a suite that silently skipped
// its PostgreSQL half would prove nothing.
package testenv

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// requireVariable is set to "all" where every test has to run.
const requireVariable = "NIMBUS_TEST_REQUIRE"

// Require skips the test unless the machine has everything named in what:
// "root" (effective user id 0), "postgres", "redis", "s3", "clickhouse", "conformance", "qemu", a file by its whole
// path, or else a program that is looked up in PATH, like "chromium". Under NIMBUS_TEST_REQUIRE=all it
// fails the test instead.
func Require(t testing.TB, what ...string) {
	t.Helper()
	for _, name := range what {
		err := look(name)
		switch {
		case err == nil:
		case os.Getenv(requireVariable) == "all":
			t.Fatalf("%s is required: %v", name, err)
		default:
			t.Skipf("%s is missing: %v (set %s=all to fail instead)", name, err, requireVariable)
		}
	}
}

// look tells why the machine lacks name, nil when it has it.
func look(name string) error {
	switch name {
	case "root":
		if os.Geteuid() != 0 {
			return fmt.Errorf("running as user %d", os.Geteuid())
		}
		return nil
	case "postgres":
		_, err := postgresBin()
		return err
	case "redis":
		return lookPath("redis-server")
	case "s3":
		_, err := versitygw()
		return err
	case "clickhouse":
		_, _, err := chdb()
		return err
	case "conformance": // OCI's suite for registries
		_, err := Tool(name)
		return err
	case "qemu":
		return lookPath("qemu-system-x86_64")
	}
	if filepath.IsAbs(name) {
		_, err := os.Stat(name)
		return err
	}
	return lookPath(name)
}

func lookPath(program string) error {
	_, err := exec.LookPath(program)
	return err
}

// postgresBin finds the folder with PostgreSQL's programs. Debian keeps
// initdb and postgres out of PATH, in a folder per major version.
func postgresBin() (string, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(path), nil
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		return "", fmt.Errorf("no initdb in PATH or /usr/lib/postgresql: apt-get install postgresql")
	}
	slices.Sort(found) // two-digit versions sort as text
	return filepath.Dir(found[len(found)-1]), nil
}
