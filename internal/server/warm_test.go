package server

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/api/gen/nimbus/v1/nimbusv1connect"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/testenv"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// TestWarm asks a host for what another way has saved: once it has told that it is
// there, a job on it restores it while the bucket is away.
func TestWarm(t *testing.T) {
	t.Parallel()
	objects := testenv.S3(t)
	r := replicaTest(t, ReplicaConfig{
		Database: testenv.Postgres(t), MasterKey: identity.KeySource{File: filepath.Join(t.TempDir(), "key")}, S3: bucketOf(t, objects),
	})
	token := tokenOfAJob(t, r)
	door, url := hostOf(t, r)
	content := strings.Repeat("warm ", 1<<18)
	path := "/cache/" + nimbus.DefaultOrgID + "/"
	for key, content := range map[string]string{"a/warm": content, "b/cold": "cold"} {
		if status, said := r.send(t, http.MethodPut, r.URL()+path+key, token, content); status != http.StatusCreated {
			t.Fatalf("%d %s", status, said)
		}
	}
	host, err := r.scheduler.RegisterHost(t.Context(), "near", "test", nimbus.Inventory{Arch: "amd64", CPUs: 1, MemoryMiB: 1024})
	if err != nil {
		t.Fatal(err)
	}
	bearer, err := r.identity.IssueHost(t.Context(), host.ID)
	if err != nil {
		t.Fatal(err)
	}
	agent := nimbusv1connect.NewAgentServiceClient(http.DefaultClient, r.URL(), connect.WithInterceptors(wire.Caller{Token: func() string { return bearer }}))
	root, ok := identity.Root().In(nimbus.DefaultOrgID)
	if !ok {
		t.Fatal("root acts in every org")
	}
	desk := r.cache.service.Desk()
	n, bytes, err := desk.Warm(t.Context(), root, nimbus.DefaultOrgID, nimbus.CacheWarming{Filter: nimbus.CacheFilter{Repo: nimbus.OwnJobs, Prefix: "a/"}, Hosts: []string{host.ID}})
	if err != nil || n != 1 || bytes != int64(len(content)) {
		t.Fatalf("%d entries of %d bytes are asked for: %v", n, bytes, err)
	}

	// beat is a heartbeat, as the agent makes it.
	beat := func() (wishes int) {
		t.Helper()
		told := door.Warmed(64)
		q := &nimbusv1.HeartbeatRequest{}
		for _, w := range told {
			q.Warmed = append(q.Warmed, wire.CacheWarmed(w))
		}
		answer, err := agent.Heartbeat(t.Context(), connect.NewRequest(q))
		if err != nil {
			t.Fatal(err)
		}
		door.Forget(told)
		for _, m := range answer.Msg.GetWishes() {
			door.Wish([]nimbus.CacheWish{wire.ToCacheWish(m)})
		}
		return len(answer.Msg.GetWishes())
	}
	asked := beat()
	for end := time.Now().Add(time.Minute); asked == 0 && time.Now().Before(end); asked = beat() { // a heartbeat does not wait long for what is asked
	}
	if asked != 1 {
		t.Fatalf("the host is asked for %d entries", asked)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		beat()
		w, err := desk.Warmth(t.Context(), nimbus.DefaultOrgID)
		if err != nil || len(w) != 1 || len(w[0].Counts) != 1 || time.Now().After(end) {
			t.Fatalf("%+v %v", w, err)
		}
		if c := w[0].Counts[0]; c.State != nimbus.CacheAsked {
			if c != (nimbus.CacheWarmCount{State: nimbus.CacheHere, Entries: 1, Bytes: bytes}) {
				t.Fatalf("%+v", c)
			}
			break
		}
	}
	if asked := beat(); asked != 0 {
		t.Errorf("the host is asked for %d entries again", asked)
	}

	objects.Stop()
	if status, got := r.send(t, http.MethodGet, url+path+"a/warm", token, ""); status != http.StatusOK || got != content {
		t.Errorf("what was brought: %d, %d bytes", status, len(got))
	}
	if status, _ := r.send(t, http.MethodGet, url+path+"b/cold", token, ""); status != http.StatusNotFound {
		t.Errorf("what was not: %d", status)
	}
	if f := door.Figures(); f.Hits != 1 || f.Misses != 2 {
		t.Errorf("%+v", f)
	}
}
