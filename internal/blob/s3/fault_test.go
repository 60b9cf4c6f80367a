package s3_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob"
	"github.com/nimbus-ci/nimbus/internal/blob/blobtest"
	"github.com/nimbus-ci/nimbus/internal/blob/s3"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// between is a proxy before a real server that a test has fail: fault answers a
// request, and returns true, or leaves it to the server.
func between(t *testing.T, server *testenv.S3Server, secure bool, fault func(w http.ResponseWriter, r *http.Request) bool) *httptest.Server {
	t.Helper()
	target, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	// The signature has the host in it: it stays what the client called.
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host
	}}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if fault == nil || !fault(w, r) {
			proxy.ServeHTTP(w, r)
		}
	})
	if secure {
		front := httptest.NewTLSServer(handler)
		t.Cleanup(front.Close)
		return front
	}
	front := httptest.NewServer(handler)
	t.Cleanup(front.Close)
	return front
}

// isPart tells whether a request sends a part of an upload, or has one copied.
func isPart(r *http.Request) bool {
	return r.Method == http.MethodPut && r.URL.Query().Has("partNumber")
}

func TestPartsAreSentAgain(t *testing.T) {
	t.Parallel()
	server := testenv.S3(t)
	var mu sync.Mutex
	failed := map[string]bool{}
	front := between(t, server, false, func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		n := r.URL.Query().Get("partNumber")
		if !isPart(r) || failed[n] {
			return false
		}
		failed[n] = true
		_, _ = io.CopyN(io.Discard, r.Body, 1<<20) // in the middle
		http.Error(w, "", http.StatusServiceUnavailable)
		return true
	})
	cfg := config(t, server, "")
	cfg.Endpoint = front.URL
	s := open(t, cfg)
	raw := blobtest.Random(1, 20<<20)
	info, err := s.Put(t.Context(), "a", onlyReader{bytes.NewReader(raw)}, 20<<20)
	if err != nil || info.SHA256 != blobtest.SHA256(raw) {
		t.Fatal(info, err)
	}
	if len(failed) != 3 {
		t.Errorf("%d parts failed once, want 3", len(failed))
	}
	r, _, err := s.Open(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, raw) {
		t.Errorf("%d other bytes, %v", len(got), err)
	}
}

// onlyReader hides whatever else a source can do.
type onlyReader struct{ io.Reader }

// TestAFailedUploadLeavesNothing has S3 fail at each of the requests of an upload,
// for good.
func TestAFailedUploadLeavesNothing(t *testing.T) {
	t.Parallel()
	server := testenv.S3(t)
	c := client(t, server)
	raw := blobtest.Random(1, 20<<20)
	isBegin := func(r *http.Request) bool { return r.Method == http.MethodPost && r.URL.Query().Has("uploads") }
	isComplete := func(r *http.Request) bool { return r.Method == http.MethodPost && r.URL.Query().Has("uploadId") }
	isCopy := func(r *http.Request) bool { return r.Header.Get("X-Amz-Copy-Source") != "" }
	for name, hit := range map[string]func(r *http.Request) bool{
		"begin": isBegin, "part": isPart, "complete": isComplete, "copy": isCopy,
		"third part":      func(r *http.Request) bool { return isPart(r) && r.URL.Query().Get("partNumber") == "3" && !isCopy(r) },
		"copy's complete": func(r *http.Request) bool { return isComplete(r) && strings.Contains(r.URL.Path, "/blobs/cas/") },
	} {
		t.Run(name, func(t *testing.T) {
			front := between(t, server, false, func(w http.ResponseWriter, r *http.Request) bool {
				if !hit(r) {
					return false
				}
				http.Error(w, "", http.StatusServiceUnavailable)
				return true
			})
			prefix := strings.ReplaceAll(name, " ", "-") + "/"
			cfg := config(t, server, strings.ReplaceAll(prefix, "'", ""))
			cfg.Endpoint = front.URL
			s := open(t, cfg)
			failed := 0
			if _, err := s.Put(t.Context(), "a", bytes.NewReader(raw), 20<<20); err != nil {
				failed++
				if nimbus.ErrorCode(err) != nimbus.CodeUnavailable {
					t.Error(err)
				}
			}
			if _, err := s.PutAddressed(t.Context(), "cas", bytes.NewReader(raw), 20<<20); err != nil {
				failed++
				if nimbus.ErrorCode(err) != nimbus.CodeUnavailable {
					t.Error(err)
				}
			}
			if failed == 0 {
				t.Error("nothing failed")
			}
			found, err := s.List(t.Context(), "", "", 0)
			if err != nil || len(found) != 2-failed {
				t.Errorf("%d blobs of %d that were put, %v", len(found), 2-failed, err)
			}
			for _, left := range residue(t, c, server.Bucket, cfg.Prefix) {
				t.Errorf("%s is left behind", left)
			}
		})
	}
}

// TestGivenUpUntilItIsGone: S3 may fail to give an upload up, or have it yet when it says
// that it has not, as long as a part of it is on its way.
func TestGivenUpUntilItIsGone(t *testing.T) {
	t.Parallel()
	server := testenv.S3(t)
	var tries atomic.Int64
	front := between(t, server, false, func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case isPart(r):
			w.WriteHeader(http.StatusServiceUnavailable)
		case r.Method == http.MethodDelete && tries.Add(1) == 1:
			w.WriteHeader(http.StatusInternalServerError)
		case r.Method == http.MethodDelete && tries.Load() == 2:
			w.WriteHeader(http.StatusNoContent)
		default:
			return false
		}
		return true
	})
	cfg := config(t, server, "")
	cfg.Endpoint = front.URL
	s := open(t, cfg)
	if _, err := s.Put(t.Context(), "a", bytes.NewReader(blobtest.Random(1, 9<<20)), 9<<20); nimbus.ErrorCode(err) != nimbus.CodeUnavailable {
		t.Errorf("an upload without its parts: %v", err)
	}
	for _, left := range residue(t, client(t, server), server.Bucket, "") {
		t.Errorf("%s is left behind", left)
	}
	if n := tries.Load(); n != 3 {
		t.Errorf("it was given up %d times", n)
	}
}

// TestCancelledAsItBegins: an upload is given up also where S3 began it after the caller
// had gone.
func TestCancelledAsItBegins(t *testing.T) {
	t.Parallel()
	server := testenv.S3(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	front := between(t, server, false, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost || !r.URL.Query().Has("uploads") {
			return false
		}
		onward := r.Clone(context.WithoutCancel(r.Context()))
		onward.RequestURI, onward.URL.Scheme, onward.URL.Host = "", "http", strings.TrimPrefix(server.URL, "http://")
		answer, err := http.DefaultTransport.RoundTrip(onward)
		if err != nil {
			t.Error(err)
			return true
		}
		defer answer.Body.Close()
		cancel()
		_, _ = io.Copy(w, answer.Body) // to who may have gone
		return true
	})
	cfg := config(t, server, "")
	cfg.Endpoint = front.URL
	s := open(t, cfg)
	if _, err := s.Put(ctx, "a", bytes.NewReader(blobtest.Random(1, 9<<20)), 9<<20); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled as it began: %v", err)
	}
	for _, left := range residue(t, client(t, server), server.Bucket, "") {
		t.Errorf("%s is left behind", left)
	}
}

// TestCopyThatFailsAfterItsAnswer: S3 may say 200 first, and then that it failed.
func TestCopyThatFailsAfterItsAnswer(t *testing.T) {
	t.Parallel()
	server := testenv.S3(t)
	front := between(t, server, false, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("X-Amz-Copy-Source") == "" {
			return false
		}
		_, _ = io.WriteString(w, `<?xml version="1.0"?><Error><Code>InternalError</Code><Message>late</Message></Error>`)
		return true
	})
	cfg := config(t, server, "")
	cfg.Endpoint = front.URL
	s := open(t, cfg)
	if _, err := s.PutAddressed(t.Context(), "cas", bytes.NewReader(blobtest.Random(1, 9<<20)), 9<<20); nimbus.ErrorCode(err) != nimbus.CodeUnavailable {
		t.Errorf("a copy that was not made: %v", err)
	}
	for _, left := range residue(t, client(t, server), server.Bucket, "") {
		t.Errorf("%s is left behind", left)
	}
}

func TestCopyInPieces(t *testing.T) {
	t.Parallel()
	server := testenv.S3(t)
	s := open(t, config(t, server, "").CopyIn(6<<20))
	raw := blobtest.Random(1, 20<<20)
	sum, err := s.PutAddressed(t.Context(), "cas", bytes.NewReader(raw), 20<<20)
	if err != nil {
		t.Fatal(err)
	}
	r, size, err := s.Open(t.Context(), "cas/"+sum)
	if err != nil || size != 20<<20 {
		t.Fatal(size, err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, raw) {
		t.Errorf("%d other bytes, %v", len(got), err)
	}
}

// TestSilenceEnds: a server that stops in the middle of anything does not keep us
// for ever.
func TestSilenceEnds(t *testing.T) {
	t.Parallel()
	server := testenv.S3(t)
	stuck := make(chan struct{})
	var silent atomic.Bool
	front := between(t, server, false, func(w http.ResponseWriter, r *http.Request) bool {
		if !silent.Load() {
			return false
		}
		if r.Method == http.MethodGet { // a few bytes come, then none
			w.Header().Set("Content-Length", "1000")
			w.Header().Set("Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT")
			_, _ = io.WriteString(w, "hello")
			_ = http.NewResponseController(w).Flush()
		}
		<-stuck
		return true
	})
	t.Cleanup(func() { close(stuck) }) // before the server closes, which waits for its handlers
	cfg := config(t, server, "")
	cfg.Endpoint = front.URL
	// Which waits for as long as a busy server takes.
	if _, err := open(t, cfg).Put(t.Context(), "a", strings.NewReader(strings.Repeat("x", 1000)), 1000); err != nil {
		t.Fatal(err)
	}
	silent.Store(true)
	cfg.IdleTimeout, cfg.CallTimeout = 2*time.Second, 3*time.Second
	s := open(t, cfg)
	r, _, err := s.Open(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if raw, err := io.ReadAll(r); nimbus.ErrorCode(err) != nimbus.CodeUnavailable || string(raw) != "hello" {
		t.Errorf("a body that stops: %q, %v", raw, err)
	}
	r.Close()
	if _, err := s.Stat(t.Context(), "a"); nimbus.ErrorCode(err) != nimbus.CodeUnavailable {
		t.Errorf("no answer: %v", err)
	}
	if _, err := s.Put(t.Context(), "b", strings.NewReader("x"), 10); nimbus.ErrorCode(err) != nimbus.CodeUnavailable {
		t.Errorf("a content that is not taken: %v", err)
	}
}

func TestTLSWithACertificateOfOnesOwn(t *testing.T) {
	t.Parallel()
	server := testenv.S3(t)
	front := between(t, server, true, nil)
	cfg := config(t, server, "")
	cfg.Endpoint = front.URL
	untrusting := open(t, cfg)
	if err := untrusting.Ping(t.Context()); nimbus.ErrorCode(err) != nimbus.CodeUnavailable || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a certificate that nobody trusts: %v", err)
	}
	cfg.CAFile = filepath.Join(t.TempDir(), "ca.pem")
	raw := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw})
	if err := os.WriteFile(cfg.CAFile, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, cfg)
	content := blobtest.Random(1, 9<<20)
	if _, err := s.Put(t.Context(), "a", bytes.NewReader(content), 9<<20); err != nil {
		t.Fatal(err)
	}
	r, err := s.OpenRange(t.Context(), "a", 8<<20, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, content[8<<20:]) {
		t.Errorf("%d other bytes, %v", len(got), err)
	}
}

func TestCancelWhileS3DoesNotAnswer(t *testing.T) {
	t.Parallel()
	server := testenv.S3(t)
	ctx, cancel := context.WithCancel(t.Context())
	asked := errors.New("asked to stop")
	front := between(t, server, false, func(_ http.ResponseWriter, r *http.Request) bool {
		cancel()
		<-r.Context().Done()
		return true
	})
	cfg := config(t, server, "")
	cfg.Endpoint = front.URL
	s := open(t, cfg)
	withCause, end := context.WithCancelCause(ctx)
	defer end(asked)
	if _, err := s.Stat(withCause, "a"); !errors.Is(err, context.Canceled) || nimbus.ErrorCode(err) == nimbus.CodeUnavailable {
		t.Errorf("a caller that gave up: %v", err)
	}
}

var _ blob.Store = (*s3.Store)(nil)
