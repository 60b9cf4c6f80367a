package testenv

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
)

// startTimeout bounds initdb and the server's start on a busy machine.
const startTimeout = 90 * time.Second

// supervise runs the server for as long as its own standard input is open, then
// stops it and removes its folder. The other end of that pipe is held by the
// test process, so the server ends with it however it ends, SIGKILL included.
const supervise = `"$1/postgres" -D "$2/data" >"$2/log" 2>&1 &
server=$!
read -r _
kill -QUIT $server
wait $server
rm -rf "$2"`

// Postgres returns the URL of a fresh, empty database on a real PostgreSQL
// server. It requires "postgres". The server is started by the first call in a
// test process, listens on a unix socket alone, and ends with the process; the
// database is dropped at the end of the test. It gives up durability for
// speed: nothing in it survives a crash of the machine.
func Postgres(t testing.TB) string {
	t.Helper()
	return copyOf(t, "template0")
}

// Template is a database that others are copies of. The zero value is not
// useful.
type Template struct{ name func() (string, error) }

// NewTemplate makes a template that fill fills, once, when the first copy is
// wanted. Copying takes a fraction of the time that running all migrations does.
func NewTemplate(fill func(ctx context.Context, dsn string) error) Template {
	return Template{sync.OnceValues(func() (string, error) {
		server, err := sharedServer()
		if err != nil {
			return "", fmt.Errorf("start PostgreSQL: %w", err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		defer cancel()
		name, err := server.createDatabase(ctx, "template0")
		if err != nil {
			return "", err
		}
		return name, fill(ctx, server.dsn(name))
	})}
}

// Copy is Postgres with what the template holds. Nobody may be connected to it.
func (m Template) Copy(t testing.TB) string {
	t.Helper()
	Require(t, "postgres")
	name, err := m.name()
	if err != nil {
		t.Fatalf("fill a template: %v", err)
	}
	return copyOf(t, name)
}

func copyOf(t testing.TB, template string) string {
	t.Helper()
	Require(t, "postgres")
	server, err := sharedServer()
	if err != nil {
		t.Fatalf("start PostgreSQL: %v", err)
	}
	name, err := server.createDatabase(t.Context(), template)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.dropDatabase(name); err != nil {
			t.Error(err)
		}
	})
	return server.dsn(name)
}

// sharedServer is the one server of this test process: starting one takes
// seconds, a database in it milliseconds.
var sharedServer = sync.OnceValues(func() (*postgresServer, error) { return startPostgres(forTests) })

// forTests gives up durability for speed.
const forTests = "fsync = off\nsynchronous_commit = off\nfull_page_writes = off\nshared_buffers = 32MB\nmax_connections = 200\n"

type postgresServer struct {
	dir       string // holds data/, the socket and the log
	settings  string // beyond those that it needs
	alive     *os.File
	process   *exec.Cmd // the supervisor
	databases atomic.Int64
}

func startPostgres(settings string) (*postgresServer, error) {
	bin, err := postgresBin()
	if err != nil {
		return nil, err
	}
	// Not t.TempDir: the path of a unix socket has room for 107 bytes.
	dir, err := os.MkdirTemp("", "nimbus-pg-")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	s := &postgresServer{dir: dir, settings: settings}
	if err := s.start(ctx, bin); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := s.waitReady(ctx); err != nil {
		return nil, errors.Join(err, s.alive.Close())
	}
	return s, nil
}

func (s *postgresServer) start(ctx context.Context, bin string) error {
	owner, err := serverUser(s.dir)
	if err != nil {
		return err
	}
	initdb := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "-D", filepath.Join(s.dir, "data"),
		"--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
	initdb.SysProcAttr = &syscall.SysProcAttr{Credential: owner}
	initdb.Dir = s.dir
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	settings := fmt.Sprintf("listen_addresses = ''\nunix_socket_directories = '%s'\n%s", s.dir, s.settings)
	conf, err := os.OpenFile(filepath.Join(s.dir, "data", "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = conf.WriteString(settings)
	if err := errors.Join(err, conf.Close()); err != nil {
		return fmt.Errorf("write postgresql.conf: %w", err)
	}
	return s.supervise(bin, owner)
}

func (s *postgresServer) supervise(bin string, owner *syscall.Credential) error {
	ours, theirs, err := pipe()
	if err != nil {
		return err
	}
	cmd := exec.Command("/bin/sh", "-c", supervise, "sh", bin, s.dir)
	cmd.Stdin = theirs
	cmd.Dir = "/" // so that nothing keeps the folder of the test busy
	// A session of its own, so that an interrupt of the tests leaves the
	// supervisor alive to clean up.
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: owner, Setsid: true}
	err = cmd.Start()
	if err := errors.Join(err, theirs.Close()); err != nil {
		return fmt.Errorf("start supervisor: %w", errors.Join(err, ours.Close()))
	}
	s.alive, s.process = ours, cmd
	return nil
}

// pipe returns the end that this process keeps and the end that the supervisor
// reads. Neither is inherited by other children.
func pipe() (ours, theirs *os.File, err error) {
	theirs, ours, err = os.Pipe()
	return ours, theirs, err
}

// serverUser is who runs the server, and becomes the owner of dir: PostgreSQL
// refuses to run as root. Nil means the user of the test.
func serverUser(dir string) (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2, os.Chown(dir, int(uid), int(gid))); err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

func (s *postgresServer) waitReady(ctx context.Context) error {
	for {
		err := s.exec(ctx, "SELECT 1")
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
			return fmt.Errorf("server does not answer: %w\n%s", err, log)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (s *postgresServer) createDatabase(ctx context.Context, template string) (string, error) {
	name := fmt.Sprintf("test_%d", s.databases.Add(1))
	return name, s.exec(ctx, "CREATE DATABASE "+name+" TEMPLATE "+template)
}

func (s *postgresServer) dropDatabase(name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	return s.exec(ctx, "DROP DATABASE "+name+" WITH (FORCE)")
}

// exec runs one statement over a connection of its own, so that no pool (and
// no goroutine of one) outlives a test.
func (s *postgresServer) exec(ctx context.Context, statement string) error {
	db, err := sql.Open("pgx", s.dsn("postgres"))
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, statement)
	if err := errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("%s: %w", statement, err)
	}
	return nil
}

func (s *postgresServer) dsn(database string) string {
	u := url.URL{Scheme: "postgres", User: url.User("postgres"), Path: "/" + database,
		RawQuery: url.Values{"host": {s.dir}}.Encode()}
	return u.String()
}
