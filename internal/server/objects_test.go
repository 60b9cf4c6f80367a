package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob/s3"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// replicaTest starts a replica that serves until its test ends.
func replicaTest(t *testing.T, cfg ReplicaConfig) *running {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &running{log: &logged{}, ended: make(chan error, 1)}
	cfg.Listener, cfg.Log = l, slog.New(slog.NewTextHandler(r.log, nil))
	if r.Server, err = OpenReplica(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	up := make(chan struct{})
	go func() { r.ended <- r.Run(ctx, func() { close(up) }) }()
	t.Cleanup(func() {
		stop()
		if err := errors.Join(<-r.ended, r.Close()); err != nil {
			t.Error(err)
		}
	})
	<-up
	return r
}

func bucketOf(t *testing.T, server *testenv.S3Server) *s3.Config {
	t.Helper()
	path := filepath.Join(t.TempDir(), "credentials")
	content := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", server.AccessKey, server.SecretKey)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return &s3.Config{Endpoint: server.URL, Bucket: server.Bucket, Prefix: "nimbus/", CredentialsFile: path}
}

func (r *running) holds(t *testing.T, key, want string) {
	t.Helper()
	content, _, err := r.blobs.Open(t.Context(), key)
	if err != nil {
		t.Fatalf("open %s: %v", key, err)
	}
	defer content.Close()
	if raw, err := io.ReadAll(content); err != nil || string(raw) != want {
		t.Errorf("%s has %q, %v", key, raw, err)
	}
}

// TestReplicasShareABucket, and still read what was in the database before.
func TestReplicasShareABucket(t *testing.T) {
	t.Parallel()
	objects := testenv.S3(t)
	cfg := ReplicaConfig{Database: testenv.Postgres(t), MasterKey: identity.KeySource{File: filepath.Join(t.TempDir(), "key")}}
	old := replicaTest(t, cfg)
	before, err := old.blobs.PutAddressed(t.Context(), "org/workspaces", strings.NewReader("before"), 100)
	if err != nil {
		t.Fatal(err)
	}
	cfg.S3 = bucketOf(t, objects)
	one, two := replicaTest(t, cfg), replicaTest(t, cfg)
	one.holds(t, "org/workspaces/"+before, "before")
	after, err := one.blobs.PutAddressed(t.Context(), "org/workspaces", strings.NewReader("after"), 100)
	if err != nil {
		t.Fatal(err)
	}
	two.holds(t, "org/workspaces/"+after, "after")
	if _, err := os.Stat(filepath.Join(objects.Dir, "nimbus", "blobs", "org", "workspaces", after)); err != nil {
		t.Errorf("it is not in the bucket: %v", err)
	}
	if _, _, err := old.blobs.Open(t.Context(), "org/workspaces/"+after); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		t.Errorf("it is in the database: %v", err)
	}
	if _, _, err := one.blobs.Open(t.Context(), "org/workspaces/nothing"); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		t.Errorf("what is nowhere: %v", err)
	}
}

// TestABucketThatIsAwayIsTold by /readyz and the metrics, and does not decide; nobody
// waits for it; and it is noticed when it is back.
func TestABucketThatIsAwayIsTold(t *testing.T) {
	t.Parallel()
	objects := testenv.S3(t)
	r := replicaTest(t, ReplicaConfig{
		Database: testenv.Postgres(t), MasterKey: identity.KeySource{File: filepath.Join(t.TempDir(), "key")}, S3: bucketOf(t, objects),
	})
	if _, err := r.blobs.PutAddressed(t.Context(), "org", strings.NewReader("hello"), 5); err != nil {
		t.Fatal(err)
	}
	tells := func(ready, metric string) bool {
		status, body, _ := r.get(t, "/readyz", r.AdminToken())
		if status != http.StatusOK {
			t.Fatalf("/readyz answers %d %s", status, body)
		}
		_, metrics, _ := r.get(t, "/metrics", r.AdminToken())
		return strings.Contains(body, ready) && strings.Contains(metrics, metric)
	}
	await := func(what string, is func() bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !is(); <-time.After(50 * time.Millisecond) { // poll: it notices by itself
			if time.Now().After(deadline) {
				t.Fatalf("waited in vain until %s\n%s", what, r.log)
			}
		}
	}
	const here, away = `"name":"object store","needed":false,"ok":true`, `"name":"object store","needed":false,"ok":false`
	if !tells(here, "nimbus_blob_store_connected 1") {
		t.Error("a bucket that is there is not told")
	}
	if !tells(here, `nimbus_blob_calls_total{call="put_addressed",code="ok"} 1`) || !tells(here, `nimbus_blob_bytes_total{direction="written"} 5`) {
		t.Error("its calls are not counted")
	}
	objects.Stop()
	await("the bucket is told as away", func() bool { return tells(away, "nimbus_blob_store_connected 0") })
	if _, _, err := r.blobs.Open(t.Context(), "org/a"); nimbus.ErrorCode(err) != nimbus.CodeUnavailable || nimbus.ErrorHint(err) == "" {
		t.Errorf("while it is away: %v", err)
	}
	objects.Start()
	await("the bucket is told as back", func() bool { return tells(here, "nimbus_blob_store_connected 1") })
	if said := r.log.String(); !strings.Contains(said, "the object store is away") || !strings.Contains(said, "the object store is back") || strings.Contains(said, objects.SecretKey) {
		t.Errorf("the log says %s", said)
	}
}

// TestAStartWithoutItsBucket is a start: it may come back. What can't come right is
// an error at once.
func TestAStartWithoutItsBucket(t *testing.T) {
	t.Parallel()
	objects := testenv.S3(t)
	cfg := ReplicaConfig{Database: testenv.Postgres(t), MasterKey: identity.KeySource{File: filepath.Join(t.TempDir(), "key")}, S3: bucketOf(t, objects)}
	objects.Stop()
	r := replicaTest(t, cfg)
	if said := r.log.String(); !strings.Contains(said, "the object store can't be used now") {
		t.Errorf("the log says %s", said)
	}
	cfg.S3.Bucket = "No such name"
	cfg.Log = slog.New(slog.DiscardHandler)
	if s, err := OpenReplica(t.Context(), cfg); nimbus.ErrorCode(err) != nimbus.CodeInvalid || nimbus.ErrorHint(err) == "" {
		t.Errorf("%v", err)
		if err == nil {
			s.Close()
		}
	}
}
