package chaos

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"github.com/nimbus-ci/nimbus/internal/testenv"
	"github.com/nimbus-ci/nimbus/test/faultproxy"
)

// database is a PostgreSQL of one test, which the test restarts. What it said
// is committed survives that: only a crash of the machine would lose it.
type database struct {
	t     *testing.T
	dir   string // holds data and the socket
	bin   string
	owner *syscall.SysProcAttr
	cmd   *exec.Cmd
}

const startTimeout = 60 * time.Second

func startDatabase(t *testing.T) *database {
	t.Helper()
	testenv.Require(t, "postgres")
	// Not t.TempDir: the path of a unix socket has room for 107 bytes.
	dir, err := os.MkdirTemp("", "nimbus-chaos-pg-")
	if err != nil {
		t.Fatal(err)
	}
	d := &database{t: t, dir: dir, bin: programs(t), owner: &syscall.SysProcAttr{}}
	t.Cleanup(func() {
		d.stop(syscall.SIGQUIT)
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if os.Geteuid() == 0 { // PostgreSQL refuses root
		d.owner.Credential = postgresUser(t, dir)
	}
	initdb := exec.Command(filepath.Join(d.bin, "initdb"), "-D", filepath.Join(dir, "data"), "--username=postgres", "--auth=trust",
		"--encoding=UTF8", "--locale=C", "--no-sync")
	initdb.Dir, initdb.SysProcAttr = dir, d.owner
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v: %s", err, out)
	}
	d.start()
	return d
}

func programs(t *testing.T) string {
	t.Helper()
	if path, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(path)
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		t.Fatal("no initdb: apt-get install postgresql")
	}
	slices.Sort(found)
	return filepath.Dir(found[len(found)-1])
}

func postgresUser(t *testing.T, dir string) *syscall.Credential {
	t.Helper()
	u, err := user.Lookup("postgres")
	if err != nil {
		t.Fatal(err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2, os.Chown(dir, int(uid), int(gid))); err != nil {
		t.Fatal(err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

// start starts it and waits until it answers. fsync is off, since the machine
// does not crash; commits reach the operating system all the same.
func (d *database) start() {
	d.t.Helper()
	log, err := os.OpenFile(filepath.Join(d.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer log.Close()
	d.cmd = exec.Command(filepath.Join(d.bin, "postgres"), "-D", filepath.Join(d.dir, "data"), "-c", "listen_addresses=",
		"-c", "unix_socket_directories="+d.dir, "-c", "fsync=off", "-c", "max_connections=200", "-c", "shared_buffers=32MB")
	d.cmd.Dir, d.cmd.SysProcAttr, d.cmd.Stdout, d.cmd.Stderr = d.dir, d.owner, log, log
	if err := testenv.StartBound(d.cmd); err != nil {
		d.t.Fatal(err)
	}
	for deadline := time.Now().Add(startTimeout); ; <-time.After(20 * time.Millisecond) {
		if err = d.query("SELECT 1", new(int)); err == nil {
			return
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name())
			d.t.Fatalf("PostgreSQL does not answer: %v\n%s", err, text)
		}
	}
}

// stop ends it: SIGINT cuts connections off, SIGQUIT is as good as a crash.
func (d *database) stop(how syscall.Signal) {
	if d.cmd == nil {
		return
	}
	_ = d.cmd.Process.Signal(how) // it may have ended
	_ = d.cmd.Wait()              // by a signal
	d.cmd = nil
}

// backend is where it listens, for a proxy.
func (d *database) backend() faultproxy.Backend {
	return faultproxy.Backend{Network: "unix", Address: filepath.Join(d.dir, ".s.PGSQL.5432")}
}

// through is its URL by way of a proxy.
func through(proxy string) (string, error) {
	host, port, err := net.SplitHostPort(proxy)
	u := url.URL{Scheme: "postgres", User: url.User("postgres"), Host: net.JoinHostPort(host, port), Path: "/postgres",
		RawQuery: url.Values{"sslmode": {"disable"}, "connect_timeout": {"5"}}.Encode()}
	return u.String(), err
}

// query asks for one row, past all proxies.
func (d *database) query(text string, into ...any) error {
	return d.rows(text, func(r *sql.Rows) error { return r.Scan(into...) })
}

// rows calls f for each row.
func (d *database) rows(text string, f func(*sql.Rows) error) error {
	u := url.URL{Scheme: "postgres", User: url.User("postgres"), Path: "/postgres", RawQuery: url.Values{"host": {d.dir}}.Encode()}
	db, err := sql.Open("pgx", u.String())
	if err != nil {
		return err
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	rows, err := db.QueryContext(ctx, text)
	if err != nil {
		return fmt.Errorf("%s: %w", text, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := f(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}
