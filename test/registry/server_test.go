package registry_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/registry"
	"github.com/nimbus-ci/nimbus/internal/server"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

func TestMain(m *testing.M) {
	if text := os.Getenv(childVariable); text != "" {
		fmt.Fprintln(os.Stderr, child(text))
		os.Exit(1)
	}
	testenv.Main(m)
}

// control is a whole control plane, as `nimbus up` or `nimbus server` runs it.
type control struct {
	*server.Server
	address string
	token   string // of its administrator
}

// embedded is one process with SQLite and a folder.
func embedded(t testing.TB, limits registry.Limits) *control {
	t.Helper()
	return embeddedBeside(t, limits)
}

// embeddedBeside is one whose mirrors may ask registries that are here.
func embeddedBeside(t testing.TB, limits registry.Limits, inside ...string) *control {
	t.Helper()
	dir := t.TempDir()
	return start(t, func(ctx context.Context, l net.Listener, log *slog.Logger) (*server.Server, error) {
		return server.Open(ctx, server.Config{Data: dir, Listener: l, Log: log, Operations: server.Operations{Registry: limits, MirrorInside: inside}})
	})
}

// replica is one of a database of PostgreSQL and a bucket.
func replica(t testing.TB, limits registry.Limits) *control {
	t.Helper()
	dir, objects := t.TempDir(), bucket(t)
	database := testenv.Postgres(t)
	return start(t, func(ctx context.Context, l net.Listener, log *slog.Logger) (*server.Server, error) {
		return server.OpenReplica(ctx, server.ReplicaConfig{Database: database, MasterKey: identity.KeySource{File: filepath.Join(dir, "key")}, Listener: l, Log: log,
			S3:         &objects,
			Operations: server.Operations{Registry: limits}})
	})
}

func start(t testing.TB, open func(context.Context, net.Listener, *slog.Logger) (*server.Server, error)) *control {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := open(t.Context(), l, slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})))
	if err != nil {
		t.Fatal(errors.Join(err, l.Close()))
	}
	ctx, stop := context.WithCancel(context.Background())
	up, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- s.Run(ctx, func() { close(up) }) }()
	t.Cleanup(func() {
		stop()
		if err := errors.Join(<-ended, s.Close()); err != nil {
			t.Error(err)
		}
	})
	<-up
	return &control{Server: s, address: l.Addr().String(), token: s.AdminToken()}
}
