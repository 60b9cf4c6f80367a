package store_test

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/store"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// refusing is a PostgreSQL that lets nobody in, for a reason.
func refusing(t *testing.T, code string) (dsn string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b := pgproto3.NewBackend(c, c)
			if _, err := b.ReceiveStartupMessage(); err == nil {
				b.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: code, Message: "no"})
				_ = b.Flush() // the client may be gone
			}
			c.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-ended
	})
	return fmt.Sprintf("postgres://ci:hunter2@%s/books?sslmode=disable", l.Addr())
}

// TestWhyPostgresIsNotOpened: what waiting can mend is unavailable, and nothing
// else is; each says what to do, and none repeats the password.
func TestWhyPostgresIsNotOpened(t *testing.T) {
	t.Parallel()
	unknown, err := url.Parse(testenv.Postgres(t))
	if err != nil {
		t.Fatal(err)
	}
	unknown.Path = "/nowhere"
	for name, c := range map[string]struct {
		dsn  string
		code nimbus.Code
		says string
	}{
		"a wrong password":  {refusing(t, "28P01"), nimbus.CodeInvalid, `does not let the user "ci" in`},
		"not in pg_hba":     {refusing(t, "28000"), nimbus.CodeInvalid, `does not let the user "ci" in`},
		"unknown database":  {unknown.String(), nimbus.CodeInvalid, `has no database "nowhere"`},
		"it is starting up": {refusing(t, "57P03"), nimbus.CodeUnavailable, "does not answer"},
		"nobody listens":    {"postgres://ci:hunter2@/books?host=" + filepath.Join(t.TempDir(), "none"), nimbus.CodeUnavailable, "does not answer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := store.Open(t.Context(), store.Config{DSN: c.dsn})
			if err == nil {
				t.Fatal("it is open", s.Close())
			}
			if nimbus.ErrorCode(err) != c.code || !strings.Contains(err.Error(), c.says) || nimbus.ErrorHint(err) == "" {
				t.Errorf("%s: %v (%s)", nimbus.ErrorCode(err), err, nimbus.ErrorHint(err))
			}
			if strings.Contains(err.Error()+nimbus.ErrorHint(err), "hunter2") {
				t.Errorf("the password is shown: %v", err)
			}
		})
	}
}
