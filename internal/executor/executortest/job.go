package executortest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/zstd"

	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/guestlink"
)

// File is one that a job finds in its working directory.
type File struct {
	Name string
	Mode int64
	Data []byte
	Link string // where a symbolic link leads; "" for a file
}

// Program is a file of the machine's, as one that a job may run.
func Program(t testing.TB, path string) File {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return File{Name: filepath.Base(path), Mode: 0o755, Data: raw}
}

// Do has a sandbox run a script to its end, as the agent does, with files.
func Do(ctx context.Context, t testing.TB, s executor.Sandbox, script string, files ...File) (out string, exit *nimbusv1.Exited) {
	t.Helper()
	c := client(ctx, t, s)
	if len(files) > 0 {
		put(ctx, t, c, files)
	}
	start(ctx, t, c, script, nil)
	out, exit, _ = follow(ctx, t, c, 1, "")
	return out, exit
}

// put brings files into the sandbox.
func put(ctx context.Context, t testing.TB, c *guestlink.Client, files []File) {
	t.Helper()
	var packed bytes.Buffer
	z, err := zstd.NewWriter(&packed)
	if err != nil {
		t.Fatal(err)
	}
	archive := tar.NewWriter(z)
	for _, f := range files {
		h := &tar.Header{Name: f.Name, Mode: f.Mode, Size: int64(len(f.Data)), Typeflag: tar.TypeReg, Linkname: f.Link}
		if f.Link != "" {
			h.Typeflag = tar.TypeSymlink
		}
		err := archive.WriteHeader(h)
		if err == nil {
			_, err = archive.Write(f.Data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(archive.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	stream := c.PutWorkspace(ctx)
	for chunk := range slices.Chunk(packed.Bytes(), 32<<10) {
		if err := stream.Send(&nimbusv1.PutWorkspaceRequest{Chunk: chunk}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := stream.CloseAndReceive(); err != nil {
		t.Fatal(err)
	}
}

// acknowledge lets the guest forget.
func acknowledge(ctx context.Context, t testing.TB, c *guestlink.Client, seq int64) {
	t.Helper()
	if _, err := c.Acknowledge(ctx, connect.NewRequest(&nimbusv1.AcknowledgeRequest{Seq: seq})); err != nil {
		t.Fatal(err)
	}
}

// Job is a script that runs in a sandbox.
type Job struct {
	client *guestlink.Client
	last   int64
}

// Begin has a sandbox begin a script.
func Begin(ctx context.Context, t testing.TB, s executor.Sandbox, script string) *Job {
	t.Helper()
	j := &Job{client: client(ctx, t, s)}
	start(ctx, t, j.client, script, nil)
	return j
}

// Await returns once the script has said something.
func (j *Job) Await(ctx context.Context, t testing.TB, words string) {
	t.Helper()
	_, _, j.last = follow(ctx, t, j.client, j.last+1, words)
}
