package registry_test

import (
	"context"
	"database/sql"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/registry"
	"github.com/nimbus-ci/nimbus/internal/store"
)

// hasty is a store of whose callers nobody waits once a mirror is being changed.
type hasty struct {
	*store.Store

	leave func()
}

func (h hasty) SetRegistryMirror(ctx context.Context, row registry.MirrorRow, e nimbus.AuditEvent) error {
	h.leave()
	return h.Store.SetRegistryMirror(ctx, row, e)
}

func (h hasty) DropRegistryMirror(ctx context.Context, orgID, name string, e nimbus.AuditEvent) (string, error) {
	h.leave()
	return h.Store.DropRegistryMirror(ctx, orgID, name, e)
}

// TestMirrorChangeBreaksOff: of a change that can't be done to its end nothing of
// before is given, a password that is not named any more goes, and doing it again ends
// it; who asked for it need not wait.
func TestMirrorChangeBreaksOff(t *testing.T) {
	t.Parallel()
	dsn := engines["sqlite"](t)
	w := newMirrorWorld(t, dsn, registry.Limits{})
	tables, err := sql.Open("sqlite", strings.TrimPrefix(dsn, "sqlite:"))
	w.must(err)
	t.Cleanup(func() { w.must(tables.Close()) })
	breaks := func(statement string) {
		t.Helper()
		_, err := tables.ExecContext(t.Context(), statement)
		w.must(err)
	}
	const stuck = "CREATE TRIGGER stuck BEFORE DELETE ON registry_manifests BEGIN SELECT RAISE(ABORT, 'stuck'); END"
	layer := fresh(1000)
	w.hub.client.image("lib/base", "v1", layer)
	other := newHub(t)
	w.inside = append(w.inside, other.address)
	w.replica()
	c := &pusher{t, w.replicas[1].url, w.token}
	manifest, blob := "/v2/acme/hub.test/lib/base/manifests/v1", "/v2/acme/hub.test/lib/base/blobs/"+string(registry.Of(registry.SHA256, layer))
	pull := func(status int) {
		t.Helper()
		w.pass(2 * time.Second)
		for _, at := range []string{manifest, blob} {
			c.do("GET", at, nil).want(t, status, "")
		}
	}
	pull(200)
	request, leave := context.WithCancel(t.Context())
	defer leave()
	elsewhere := nimbus.ImageMirrorChange{Name: "hub.test", Upstream: "http://" + other.address, Username: "puller", Password: other.token, Allow: []string{"*"}}
	s := registry.New(registry.Config{Store: hasty{w.db, func() { leave() }}, Blobs: w.blobs, Key: testKey, Clock: w, Log: slog.New(slog.NewTextHandler(w.log, nil)), Secrets: w.keys, Inside: w.inside})
	secrets := func(want int) {
		t.Helper()
		if names, err := w.keys.Names(t.Context(), w.acme.ID); err != nil || len(names) != want {
			t.Errorf("the secrets are %v, %v; want %d", names, err, want)
		}
	}

	breaks(stuck)
	if err := s.SetMirror(request, w.admin, w.acme.ID, elsewhere); err == nil {
		t.Fatal("a change is done, though it can't be")
	}
	pull(503)
	secrets(1)
	if m := w.shown(); !strings.Contains(m.Failure, "being removed") || len(m.Allow) != 1 {
		t.Errorf("the mirror is %+v", m)
	}
	breaks("DROP TRIGGER stuck")
	request, leave = context.WithCancel(t.Context())
	defer leave()
	w.must(s.SetMirror(request, w.admin, w.acme.ID, elsewhere))
	pull(404)
	secrets(1)
	if m := w.shown(); m.Failure != "" || m.Bytes != 0 {
		t.Errorf("the mirror is %+v", m)
	}

	other.client.image("lib/base", "v1", layer)
	pull(200)
	breaks(stuck)
	request, leave = context.WithCancel(t.Context())
	defer leave()
	if err := s.RemoveMirror(request, w.admin, w.acme.ID, "hub.test"); err == nil {
		t.Fatal("a mirror is removed, though it can't be")
	}
	pull(503)
	secrets(0)
	breaks("DROP TRIGGER stuck")
	request, leave = context.WithCancel(t.Context())
	defer leave()
	w.must(s.RemoveMirror(request, w.admin, w.acme.ID, "hub.test"))
	pull(404)
	if used := w.used(nimbus.Org{ID: registry.MirrorAccount(w.acme.ID)}); used != 0 {
		t.Errorf("%d bytes are left", used)
	}
}
