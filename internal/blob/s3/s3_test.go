package s3_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob/blobtest"
	"github.com/nimbus-ci/nimbus/internal/blob/s3"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// credentialsFile writes one for a server.
func credentialsFile(t *testing.T, access, secret string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "credentials")
	content := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", access, secret)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// config is of a place in a server's bucket.
func config(t *testing.T, server *testenv.S3Server, prefix string) s3.Config {
	t.Helper()
	return s3.Config{
		Endpoint: server.URL, Bucket: server.Bucket, Prefix: prefix, PathStyle: true,
		CredentialsFile: credentialsFile(t, server.AccessKey, server.SecretKey),
	}
}

func open(t *testing.T, cfg s3.Config) *s3.Store {
	t.Helper()
	s, err := s3.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// client speaks with the server beside the store.
func client(t *testing.T, server *testenv.S3Server) *minio.Core {
	t.Helper()
	c, err := minio.NewCore(strings.TrimPrefix(server.URL, "http://"), &minio.Options{
		Creds: credentials.NewStaticV4(server.AccessKey, server.SecretKey, ""), Region: "us-east-1", BucketLookup: minio.BucketLookupPath,
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// residue names the uploads and the waiting objects under a prefix.
func residue(t *testing.T, c *minio.Core, bucket, prefix string) (left []string) {
	t.Helper()
	uploads, err := c.ListMultipartUploads(t.Context(), bucket, prefix, "", "", "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range uploads.Uploads {
		left = append(left, "upload "+u.Key)
	}
	for info := range c.ListObjectsIter(t.Context(), bucket, minio.ListObjectsOptions{Prefix: prefix + "incoming/", Recursive: true}) {
		if info.Err != nil {
			t.Fatal(info.Err)
		}
		left = append(left, info.Key)
	}
	return left
}

func TestStore(t *testing.T) {
	t.Parallel()
	server := testenv.S3(t)
	c := client(t, server)
	var places atomic.Int64
	blobtest.TestStore(t, func(t *testing.T) blobtest.Place {
		prefix := fmt.Sprintf("test/%d/", places.Add(1))
		// It is no key, and so nobody may see it. And it keeps the folder: versitygw
		// fails where one folder's last object goes while another one comes.
		if _, err := c.PutObject(t.Context(), server.Bucket, prefix+"blobs/.keep", strings.NewReader("x"), 1, "", "", minio.PutObjectOptions{}); err != nil {
			t.Fatal(err)
		}
		return blobtest.Place{
			Store:   open(t, config(t, server, prefix)),
			Residue: func(t *testing.T) []string { return residue(t, c, server.Bucket, prefix) },
		}
	})
}

func TestPresigned(t *testing.T) {
	t.Parallel()
	server := testenv.S3(t)
	s := open(t, config(t, server, ""))
	if _, err := s.Put(t.Context(), "org/a", strings.NewReader("hello"), 5); err != nil {
		t.Fatal(err)
	}
	link, err := s.PresignGet(t.Context(), "org/a", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	for url, want := range map[string]int{link: http.StatusOK, strings.Replace(link, "org/a", "org/b", 1): http.StatusForbidden} {
		answer, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil || answer.StatusCode != want || want == http.StatusOK && string(raw) != "hello" {
			t.Errorf("%d %.100q %v, want %d", answer.StatusCode, raw, err, want)
		}
	}
	if strings.Contains(link, server.SecretKey) {
		t.Error("the link has the secret key")
	}
}

func TestSweepRemovesWhatNobodyWritesAnyMore(t *testing.T) {
	t.Parallel()
	server := testenv.S3(t)
	c := client(t, server)
	ctx := t.Context()
	s := open(t, config(t, server, "ours/"))
	if _, err := s.Put(ctx, "org/whole", strings.NewReader("x"), 1); err != nil {
		t.Fatal(err)
	}
	abandon := func(object string) {
		t.Helper()
		id, err := c.NewMultipartUpload(ctx, server.Bucket, object, minio.PutObjectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.PutObjectPart(ctx, server.Bucket, object, id, 1, strings.NewReader("half"), 4, minio.PutObjectPartOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	abandon("ours/blobs/org/half")
	abandon("ours/incoming/half")
	abandon("theirs/half")
	abandon("ours/half") // somebody's, whose names begin as ours
	for _, object := range []string{"ours/incoming/whole", "ours/other", "theirs/incoming/whole"} {
		if _, err := c.PutObject(ctx, server.Bucket, object, strings.NewReader("x"), 1, "", "", minio.PutObjectOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Sweep(ctx); err != nil { // all of it is young
		t.Fatal(err)
	}
	if left := residue(t, c, server.Bucket, "ours/"); len(left) != 4 {
		t.Errorf("a sweep took what is being written; left: %v", left)
	}
	cfg := config(t, server, "ours/")
	cfg.Abandoned = time.Nanosecond
	// S3 tells whole seconds: what was made in this one may be from later.
	eager := open(t, cfg)
	for deadline := time.Now().Add(30 * time.Second); len(residue(t, c, server.Bucket, "ours/")) > 1; {
		if err := eager.Sweep(ctx); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatalf("left: %v", residue(t, c, server.Bucket, "ours/"))
		}
	}
	if left := residue(t, c, server.Bucket, "ours/"); !slices.Equal(left, []string{"upload ours/half"}) {
		t.Errorf("left: %v", left)
	}
	if left := residue(t, c, server.Bucket, "theirs/"); len(left) != 2 {
		t.Errorf("others have left: %v", left)
	}
	if _, err := c.StatObject(ctx, server.Bucket, "ours/other", minio.StatObjectOptions{}); err != nil {
		t.Errorf("what is none of ours: %v", err)
	}
	if size, err := s.Stat(ctx, "org/whole"); err != nil || size != 1 {
		t.Errorf("a blob was swept: %v", err)
	}
}

func TestAddressedAgainIsModifiedNow(t *testing.T) {
	t.Parallel()
	server := testenv.S3(t)
	s := open(t, config(t, server, ""))
	for _, size := range []int{3, 9 << 20} { // in one part, and in two
		raw := blobtest.Random(1, size)
		sum, err := s.PutAddressed(t.Context(), "cas", bytes.NewReader(raw), int64(size))
		if err != nil {
			t.Fatal(err)
		}
		old := time.Now().Add(-48 * time.Hour)
		if err := os.Chtimes(filepath.Join(server.Dir, "blobs", "cas", sum), old, old); err != nil {
			t.Fatal(err)
		}
		if _, err := s.PutAddressed(t.Context(), "cas", bytes.NewReader(raw), int64(size)); err != nil {
			t.Fatal(err)
		}
		found, err := s.List(t.Context(), "cas/"+sum, "", 0)
		if err != nil || len(found) != 1 || time.Since(found[0].ModifiedAt) > time.Hour {
			t.Errorf("%v, %v", found, err)
		}
	}
}

// TestStopped: while the server is away all says so, in time, and what is put
// then is not there; when it is back all goes on.
func TestStopped(t *testing.T) {
	t.Parallel()
	server := testenv.S3(t)
	s := open(t, config(t, server, ""))
	ctx := t.Context()
	if err := s.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(ctx, "a", strings.NewReader("before"), 10); err != nil {
		t.Fatal(err)
	}
	server.Stop()
	for name, call := range map[string]func() error{
		"ping":   func() error { return s.Ping(ctx) },
		"put":    func() error { _, err := s.Put(ctx, "a", strings.NewReader("while"), 10); return err },
		"parts":  func() error { _, err := s.Put(ctx, "a", io.LimitReader(zeros{}, 20<<20), 20<<20); return err },
		"open":   func() error { _, _, err := s.Open(ctx, "a"); return err },
		"range":  func() error { _, err := s.OpenRange(ctx, "a", 1, 1); return err },
		"stat":   func() error { _, err := s.Stat(ctx, "a"); return err },
		"list":   func() error { _, err := s.List(ctx, "", "", 0); return err },
		"delete": func() error { return s.Delete(ctx, "a") },
		"sweep":  func() error { return s.Sweep(ctx) },
	} {
		if err := call(); nimbus.ErrorCode(err) != nimbus.CodeUnavailable || nimbus.ErrorHint(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	server.Start()
	r, _, err := s.Open(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if raw, err := io.ReadAll(r); err != nil || string(raw) != "before" {
		t.Errorf("%q, %v", raw, err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// TestRefused: what S3 does not let us do is told with a next step, without the
// keys.
func TestRefused(t *testing.T) {
	t.Parallel()
	server := testenv.S3(t)
	wrong := config(t, server, "")
	wrong.CredentialsFile = credentialsFile(t, server.AccessKey, "wrong-secret-key")
	stranger := config(t, server, "")
	stranger.CredentialsFile = credentialsFile(t, "a-stranger", "wrong-secret-key")
	nowhere := config(t, server, "")
	nowhere.Bucket = "no-such-bucket"
	for name, cfg := range map[string]s3.Config{"secret": wrong, "key": stranger, "bucket": nowhere} {
		s := open(t, cfg)
		_, put := s.Put(t.Context(), "a", strings.NewReader("x"), 10)
		_, _, get := s.Open(t.Context(), "a")
		_, list := s.List(t.Context(), "", "", 0)
		for verb, err := range map[string]error{"ping": s.Ping(t.Context()), "put": put, "open": get, "list": list} {
			if nimbus.ErrorCode(err) != nimbus.CodeUnavailable || nimbus.ErrorHint(err) == "" {
				t.Errorf("%s with a wrong %s: %v (%s)", verb, name, err, nimbus.ErrorCode(err))
			}
			if said := fmt.Sprintf("%v %+v", err, err); strings.Contains(said, "wrong-secret-key") || strings.Contains(said, server.SecretKey) {
				t.Errorf("%s: the error has the secret key", verb)
			}
		}
	}
}

func TestWaitingForAPlaceEndsWithTheContext(t *testing.T) {
	t.Parallel()
	server := testenv.S3(t)
	cfg := config(t, server, "")
	cfg.Puts = 1
	s := open(t, cfg)
	reading, release := make(chan struct{}), make(chan struct{})
	first := make(chan error, 1)
	go func() {
		_, err := s.Put(t.Context(), "a", io.MultiReader(signal{reading, release}, strings.NewReader("x")), 10)
		first <- err
	}()
	<-reading
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Put(ctx, "b", strings.NewReader("x"), 10); err == nil {
		t.Error("two at once where there is a place for one")
	}
	close(release)
	if err := <-first; err != nil {
		t.Error(err)
	}
	if _, err := s.Put(t.Context(), "b", strings.NewReader("x"), 10); err != nil {
		t.Errorf("the place is free again: %v", err)
	}
}

// signal is an empty source that tells that it is read, and waits.
type signal struct{ reading, release chan struct{} }

func (s signal) Read([]byte) (int, error) {
	close(s.reading)
	<-s.release
	return 0, io.EOF
}
