package httpapi_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob/fs"
	"github.com/nimbus-ci/nimbus/internal/httpapi"
	"github.com/nimbus-ci/nimbus/internal/testenv"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// TestFullDisk: who brings files to a server without room hears of that, and not
// of where the server keeps them.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	testenv.Require(t, "root")
	disk := t.TempDir()
	must(t, unix.Mount("none", disk, "tmpfs", 0, "size=64k"))
	t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
	blobs, err := fs.Open(disk)
	must(t, err)
	t.Cleanup(func() { blobs.Close() })
	p := startPlane(t, func(cfg *httpapi.Config) { cfg.Blobs = blobs })
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, p.url+"/api/v1/workspaces", io.LimitReader(zeros{}, 256<<10))
	must(t, err)
	r.Header.Set("Authorization", "Bearer "+p.admin)
	answer, err := http.DefaultClient.Do(r)
	must(t, err)
	defer answer.Body.Close()
	told := wire.ToHTTPError(answer)
	if nimbus.ErrorCode(told) != nimbus.CodeUnavailable || told.Error() != "the server's disk is full" || !strings.Contains(nimbus.ErrorHint(told), "--data") {
		t.Errorf("answered %s: %v; hint %q", answer.Status, told, nimbus.ErrorHint(told))
	}
}

// zeros never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
