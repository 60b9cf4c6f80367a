package docker_test

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/library"
)

// TestRegistryInside: a job has the daemon ask nobody at an address of the host's
// own network whom the operator has not named.
func TestRegistryInside(t *testing.T) {
	cfg, _ := config(t)
	var came atomic.Int32
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "a secret, not found", http.StatusNotFound)
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			came.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	host := strings.TrimPrefix(s.URL, "http://")
	ask := func(allow ...string) error {
		asked := cfg
		asked.Catalog.Policy = library.Policy{Allow: allow}
		_, err := create(t, asked).Create(t.Context(), executor.Spec{
			ID: nimbus.NewID(nimbus.PrefixAttempt, time.Now()), Dir: t.TempDir(), Deadline: time.Minute,
			Class: nimbus.Class{Executor: nimbus.ExecutorDocker, Image: host + "/acme/tool:1", Network: nimbus.NetworkNone},
		})
		var image *executor.ImageError
		if !errors.As(err, &image) {
			t.Errorf("not for what the image is: %v", err)
		}
		return err
	}
	for _, allow := range []string{"*", "127.0.0.1:*"} {
		if err := ask(allow); nimbus.ErrorCode(err) != nimbus.CodeForbidden || !strings.Contains(nimbus.ErrorHint(err), "--image-allow '"+host+"/*'") {
			t.Errorf("%v; %s", err, nimbus.ErrorHint(err))
		}
	}
	if n := came.Load(); n != 0 {
		t.Errorf("it was asked %d times", n)
	}
	// Who answers there may be anybody to whom a registry has sent the daemon.
	if err := ask(host + "/*"); nimbus.ErrorCode(err) != nimbus.CodeNotFound || came.Load() == 0 || strings.Contains(err.Error(), "secret") {
		t.Errorf("named: %v, asked %d times", err, came.Load())
	}
}
