package blob_test

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob"
	"github.com/nimbus-ci/nimbus/internal/blob/blobtest"
	"github.com/nimbus-ci/nimbus/internal/blob/breaker"
	"github.com/nimbus-ci/nimbus/internal/blob/fs"
	"github.com/nimbus-ci/nimbus/internal/blob/limit"
	"github.com/nimbus-ci/nimbus/internal/blob/mem"
	"github.com/nimbus-ci/nimbus/internal/blob/meter"
	"github.com/nimbus-ci/nimbus/internal/blob/retry"
	"github.com/nimbus-ci/nimbus/internal/blob/s3"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

type deaf struct{}

func (deaf) BlobCalled(string, nimbus.Code, time.Duration) {}
func (deaf) BlobMoved(bool, int64)                         {}

// layered puts all that can stand in front of a store there, as the server does.
func layered(s blob.Store) blob.Store {
	s = meter.New(s, deaf{})
	s = limit.New(s, limit.Config{Calls: 8, Readers: 16})
	s = retry.New(s, retry.Policy{})
	return breaker.New(s, breaker.Config{Log: slog.New(slog.DiscardHandler)})
}

func openFolder(t *testing.T) *fs.Store {
	t.Helper()
	s, err := fs.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// openBuckets returns what opens one place in a bucket after the other.
func openBuckets(t *testing.T) func(t *testing.T) *s3.Store {
	t.Helper()
	server := testenv.S3(t)
	credentials := filepath.Join(t.TempDir(), "credentials")
	content := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", server.AccessKey, server.SecretKey)
	if err := os.WriteFile(credentials, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	var places atomic.Int64
	return func(t *testing.T) *s3.Store {
		t.Helper()
		s, err := s3.Open(s3.Config{
			Endpoint: server.URL, Bucket: server.Bucket, Prefix: fmt.Sprintf("test/%d/", places.Add(1)), CredentialsFile: credentials,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
}

// TestLayers: whatever stands in front of a store, it is one.
func TestLayers(t *testing.T) {
	t.Parallel()
	t.Run("mem", func(t *testing.T) {
		t.Parallel()
		blobtest.TestStore(t, func(*testing.T) blobtest.Place { return blobtest.Place{Store: layered(mem.New(100 << 20))} })
	})
	t.Run("fs", func(t *testing.T) {
		t.Parallel()
		blobtest.TestStore(t, func(t *testing.T) blobtest.Place { return blobtest.Place{Store: layered(openFolder(t))} })
	})
	t.Run("s3", func(t *testing.T) {
		t.Parallel()
		open := openBuckets(t)
		blobtest.TestStore(t, func(t *testing.T) blobtest.Place { return blobtest.Place{Store: layered(open(t))} })
	})
}

// TestLayersKeepWhatIsOptional: a reader of a file that the kernel can copy, links,
// sweeps.
func TestLayersKeepWhatIsOptional(t *testing.T) {
	t.Parallel()
	folder := layered(openFolder(t))
	if _, err := folder.Put(t.Context(), "a", strings.NewReader("hello"), 5); err != nil {
		t.Fatal(err)
	}
	r, err := folder.OpenRange(t.Context(), "a", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w := &blobtest.Response{}
	if _, err := io.Copy(w, r); err != nil || !w.File || w.String() != "hello" {
		t.Errorf("a file is no file any more: %q, %v", w, err)
	}
	if _, ok := blob.As[blob.Presigner](folder); ok {
		t.Error("a folder makes links")
	}
	bucket := layered(openBuckets(t)(t))
	links, ok := blob.As[blob.Presigner](bucket)
	if !ok {
		t.Fatal("a bucket makes no links any more")
	}
	if link, err := links.PresignGet(t.Context(), "a", time.Minute); err != nil || !strings.Contains(link, "Signature=") {
		t.Errorf("%s, %v", link, err)
	}
	if sweeper, ok := blob.As[blob.Sweeper](bucket); !ok || sweeper.Sweep(t.Context()) != nil {
		t.Error("a bucket is not swept any more")
	}
}
