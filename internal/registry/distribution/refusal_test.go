package distribution

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"

	"github.com/nimbus-ci/nimbus"
)

// TestAFullDiskIsTold: who pushes hears that the server has no room, whichever disk
// it is, and not of a fault that nobody knows.
func TestAFullDiskIsTold(t *testing.T) {
	t.Parallel()
	h := &Handler{Config: Config{Log: slog.New(slog.DiscardHandler)}}
	for _, failure := range []error{
		fmt.Errorf("write blob: %w", syscall.ENOSPC),
		&nimbus.Error{Code: nimbus.CodeUnavailable, Message: "the server's disk is full", Hint: "make room", Err: syscall.ENOSPC},
	} {
		w := httptest.NewRecorder()
		h.refuse(w, httptest.NewRequest(http.MethodPut, "/v2/acme/app/blobs/uploads/1", nil), fmt.Errorf("store a blob: %w", failure))
		if w.Code != http.StatusInsufficientStorage || !strings.Contains(w.Body.String(), `"DENIED"`) || !strings.Contains(w.Body.String(), "disk is full") {
			t.Errorf("%v: %d, %s", failure, w.Code, w.Body)
		}
	}
}
