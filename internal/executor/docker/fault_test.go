package docker

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// TestFaultOfImage: that no container starts from an image is told as the
// image's, and none is made ready of it until it is another one.
func TestFaultOfImage(t *testing.T) {
	testenv.Require(t, "root", "dockerd", "nft", "mke2fs")
	d := testenv.DockerWith(t)
	e, err := New(Config{
		Shim: testenv.Program(t, "cmd/nimbus-shim"), Guest: testenv.Program(t, "cmd/nimbus-guest"), Host: "unix://" + d.Socket,
		Owner: fmt.Sprintf("f%d", os.Getpid()), Dir: t.TempDir(), DiskMiB: 16, Built: image.Store{Dir: t.TempDir()},
	})
	if err != nil {
		t.Fatal(err)
	}
	class := nimbus.Class{Executor: nimbus.ExecutorDocker, Image: "faulty:1", CPUs: 1, MemoryMiB: 64, Network: nimbus.NetworkNone}
	bring(t, d.Socket, "faulty", "1", tar.Header{Name: "workspace", Mode: 0o644})
	dir, err := os.MkdirTemp("", "nimbus-sandbox-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	_, err = e.Create(t.Context(), executor.Spec{ID: nimbus.NewID(nimbus.PrefixAttempt, time.Now()), Dir: dir, Class: class, Deadline: time.Minute})
	var fault *executor.ImageError
	if !errors.As(err, &fault) || !strings.Contains(fault.Error(), "image faulty:1: something is in the way at /workspace") || strings.Contains(err.Error(), dir) {
		t.Errorf("%v", err)
	}
	before := count(t, d.Socket)
	if before != 1 {
		t.Errorf("%d containers were made for it", before)
	}
	for range 2 {
		if _, err := (maker{e}).Make(t.Context(), class); !errors.As(err, &fault) {
			t.Errorf("made ready: %v", err)
		}
	}
	if after := count(t, d.Socket); after != before {
		t.Errorf("%d containers were made, then %d", before, after)
	}
	bring(t, d.Socket, "faulty", "1", tar.Header{Typeflag: tar.TypeDir, Name: "workspace", Mode: 0o755})
	b, err := (maker{e}).Make(t.Context(), class)
	if err != nil {
		t.Fatalf("of another image: %v", err)
	}
	(maker{e}).Drop(t.Context(), b)
}

// count is how many containers the daemon has made so far.
func count(t *testing.T, socket string) int {
	t.Helper()
	query := url.Values{"since": {"0"}, "until": {strconv.FormatInt(time.Now().Unix()+1, 10)}, "filters": {`{"type":["container"],"event":["create"]}`}}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://docker/events?"+query.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := testenv.DockerClient(socket).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Count(said, []byte(`"Action":"create"`))
}

// bring imports an image of one entry, under a name that it may have had before.
func bring(t *testing.T, socket, name, tag string, entry tar.Header) {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := errors.Join(w.WriteHeader(&entry), w.Close()); err != nil {
		t.Fatal(err)
	}
	query := url.Values{"fromSrc": {"-"}, "repo": {name}, "tag": {tag}}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://docker/images/create?"+query.Encode(), &b)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := testenv.DockerClient(socket).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if said, err := io.ReadAll(answer.Body); err != nil || answer.StatusCode != http.StatusOK || bytes.Contains(said, []byte("errorDetail")) {
		t.Fatalf("import: %s, %v: %s", answer.Status, err, said)
	}
}
