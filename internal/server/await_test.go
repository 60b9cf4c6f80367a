package server

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// away is a database that does not answer.
var away = &nimbus.Error{Code: nimbus.CodeUnavailable, Message: "PostgreSQL at db:5432 does not answer", Hint: "is it running", Err: errors.New("connection refused")}

func TestAwaited(t *testing.T) {
	t.Parallel()
	wrong := nimbus.Errorf(nimbus.CodeInvalid, "a wrong password")
	for name, c := range map[string]struct {
		patience time.Duration
		answers  []error // the last one again and again
		tries    int
		want     error
		took     time.Duration
	}{
		"it is there":               {2 * time.Minute, []error{nil}, 1, nil, 0},
		"it comes":                  {2 * time.Minute, []error{away, away, away, nil}, 4, nil, 1750 * time.Millisecond},
		"it never comes":            {10 * time.Second, []error{away}, 7, away, 10 * time.Second},
		"nobody waits":              {0, []error{away}, 1, away, 0},
		"waiting would not help":    {2 * time.Minute, []error{wrong}, 1, wrong, 0},
		"it comes, and we can't in": {2 * time.Minute, []error{away, wrong}, 2, wrong, 250 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				began, tries := time.Now(), 0
				err := awaited(t.Context(), slog.New(slog.NewTextHandler(&log, nil)), c.patience, func(context.Context) error {
					tries++
					return c.answers[min(tries, len(c.answers))-1]
				})
				if nimbus.ErrorCode(err) != nimbus.ErrorCode(c.want) || tries != c.tries || time.Since(began) != c.took {
					t.Errorf("after %d tries and %s: %v", tries, time.Since(began), err)
				}
				if told := strings.Count(log.String(), "db:5432 does not answer"); told != c.tries-1 || strings.Count(log.String(), "connection refused") != told {
					t.Errorf("of %d tries it told:\n%s", c.tries, log.String())
				}
				if errors.Is(c.want, away) && c.patience > 0 && (!strings.Contains(err.Error(), "for 10s") || !strings.Contains(nimbus.ErrorHint(err), "--database-wait")) {
					t.Errorf("it gives up without a word of what to do: %v (%s)", err, nimbus.ErrorHint(err))
				}
			})
		})
	}
}

// TestAwaitedIsStopped: a server that waits is stopped at once.
func TestAwaitedIsStopped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		began := time.Now()
		time.AfterFunc(time.Second, stop)
		err := awaited(ctx, slog.New(slog.DiscardHandler), time.Hour, func(context.Context) error { return away })
		if nimbus.ErrorCode(err) != nimbus.CodeCancelled || time.Since(began) != time.Second {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
}

// heard is a log that can be read while it is written.
type heard struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (h *heard) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.text.Write(p)
}

func (h *heard) has(words string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Contains(h.text.String(), words)
}

// TestAReplicaWaitsForItsDatabase: one that starts before PostgreSQL does is
// open once that is there. The socket that it looks for is a link, which points
// nowhere at first.
func TestAReplicaWaitsForItsDatabase(t *testing.T) {
	t.Parallel()
	dsn, err := url.Parse(testenv.Postgres(t))
	if err != nil {
		t.Fatal(err)
	}
	query := dsn.Query()
	folder := query.Get("host")
	later := filepath.Join(t.TempDir(), "pg")
	query.Set("host", later)
	dsn.RawQuery = query.Encode()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	log, opened := &heard{}, make(chan error, 1)
	go func() {
		s, err := OpenReplica(t.Context(), ReplicaConfig{Database: dsn.String(), DatabaseWait: time.Hour, Listener: l,
			MasterKey: identity.KeySource{File: filepath.Join(t.TempDir(), "key")}, Log: slog.New(slog.NewTextHandler(log, nil))})
		if err == nil {
			err = s.Close()
		}
		opened <- err
	}()
	for deadline := time.Now().Add(time.Minute); !log.has("waiting for the database: PostgreSQL at "); {
		if time.Now().After(deadline) {
			t.Fatal("it does not say that it waits")
		}
		select {
		case err := <-opened:
			t.Fatalf("it did not wait: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	if err := os.Symlink(folder, later); err != nil {
		t.Fatal(err)
	}
	if err := <-opened; err != nil {
		t.Error(err)
	}
}
