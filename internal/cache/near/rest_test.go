package near_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/transfer"
)

// TestTheRestIsOfTheSameEntry: where a content breaks off on its way, the rest of
// it comes from the origin. Where another has taken its place by then, the job's
// download breaks off, too: half of each would be neither.
func TestTheRestIsOfTheSameEntry(t *testing.T) {
	t.Parallel()
	const half = 1 << 20
	content, other := strings.Repeat("a", 2*half), strings.Repeat("b", 2*half)
	for name, c := range map[string]struct {
		id   int64 // of the rest
		body string
		ok   bool
	}{
		"it is the same":      {7, content, true},
		"another is in place": {8, other, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began := make(chan struct{}) // that the job has some of it
			o := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				from, isRest := strings.CutPrefix(r.Header.Get("Range"), "bytes=")
				id := int64(7)
				if isRest {
					id = c.id
				}
				transfer.TellEntry(w.Header(), transfer.Entry{OrgID: nimbus.DefaultOrgID, ID: id, Size: 2 * half})
				if isRest {
					from, _, _ = strings.Cut(from, "-")
					at, err := strconv.Atoi(from)
					if err != nil {
						t.Error(err)
					}
					w.Header().Set("Content-Range", transfer.Span{Offset: int64(at), N: int64(2*half - at)}.ContentRange(2*half))
					w.WriteHeader(http.StatusPartialContent)
					_, _ = io.WriteString(w, c.body[at:]) // to who may be gone
					return
				}
				w.Header().Set("Content-Length", strconv.Itoa(2*half))
				if r.Method == http.MethodGet {
					_, _ = io.WriteString(w, content[:half])
					_ = http.NewResponseController(w).Flush()
					<-began
					panic(http.ErrAbortHandler)
				}
			}))
			t.Cleanup(o.Close)
			d := keeping(t, o.URL, 100<<20)
			answer, err := http.Get("http://" + d.Addr() + "/cache/" + nimbus.DefaultOrgID + "/key")
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			first := make([]byte, 1)
			if _, err := io.ReadFull(answer.Body, first); err != nil {
				t.Fatal(err)
			}
			close(began)
			rest, err := io.ReadAll(answer.Body)
			got := string(first) + string(rest)
			if (err == nil) != c.ok || c.ok && got != content || strings.Contains(got, "b") {
				t.Errorf("%d bytes, %d of them another's: %v", len(got), strings.Count(got, "b"), err)
			}
		})
	}
}

// TestStrayFiles: what is no content does not cost a host its copies.
func TestStrayFiles(t *testing.T) {
	t.Parallel()
	o := newOrigin(t, map[int64]string{1: "content"})
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "entries", nimbus.DefaultOrgID), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, stray := range []string{"entries/file", "entries/" + nimbus.DefaultOrgID + "/file", "file"} {
		if err := os.WriteFile(filepath.Join(dir, stray), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d := keepingIn(t, o.URL, dir, 100<<20)
	d.Wish([]nimbus.CacheWish{wish(1, len("content"))})
	becomes(t, d, map[int64]nimbus.CacheWarmState{1: nimbus.CacheHere})
}
