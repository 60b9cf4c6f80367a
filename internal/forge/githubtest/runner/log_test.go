package runner

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/forge/githubtest/protocol"
)

// TestMasksAcrossPieces: wherever a long line is cut into pieces, a secret on
// the cut is masked.
func TestMasksAcrossPieces(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	t.Cleanup(server.Close)
	c := newClient(protocol.Config{ServerURL: server.URL, Token: "t"}, time.Second)
	t.Cleanup(c.http.CloseIdleConnections)
	const secret = "hunter2secret"
	for split := range len(secret) + 1 {
		var out bytes.Buffer
		pages, err := newDiagnostics(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		l := newLog(pages, &out, c)
		write := func(s string) {
			if _, err := l.Write([]byte(s)); err != nil {
				t.Fatal(err)
			}
		}
		write("::add-mask::" + secret + "\n")
		write(strings.Repeat("x", maxLine) + secret[:split]) // over the bound: passed on in pieces
		write(secret[split:] + strings.Repeat("y", maxLine) + "\n")
		l.close()
		pages.close()
		got := out.String()
		if strings.Contains(got, "hunter") || strings.Count(got, "***") != 1 {
			t.Errorf("split at %d: the secret shows, or its mask doesn't", split)
		}
		if n := strings.Count(got, "x") + strings.Count(got, "y"); n != 2*maxLine {
			t.Errorf("split at %d: %d bytes of the rest, want %d", split, n, 2*maxLine)
		}
	}
}
