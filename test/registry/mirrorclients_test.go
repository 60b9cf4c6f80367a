package registry_test

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/registry"
	"github.com/nimbus-ci/nimbus/internal/store"
	"github.com/nimbus-ci/nimbus/internal/store/storetest"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// mirrored is a whole control plane whose default org has a mirror of a hub.
func mirrored(t *testing.T) (*control, *hub) {
	t.Helper()
	h := newHub(t)
	c := embeddedBeside(t, registry.Limits{Fresh: time.Nanosecond}, h.address)
	cl, err := client.New(client.Config{Server: "http://" + c.address, Token: c.token})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	err = cl.SetImageMirror(t.Context(), nimbus.ImageMirrorChange{Name: "hub.test", Upstream: "http://" + h.address, Username: "puller", Password: h.token, Allow: []string{"lib/*"}})
	if err != nil {
		t.Fatal(err)
	}
	return c, h
}

// TestMirrorDocker pulls by a real daemon what it pushed upstream, also when that is
// away, and is refused a push.
func TestMirrorDocker(t *testing.T) {
	t.Parallel()
	testenv.Require(t, "docker")
	c, h := mirrored(t)
	daemon := testenv.DockerWith(t)
	env := []string{"DOCKER_HOST=unix://" + daemon.Socket, "DOCKER_CONFIG=" + t.TempDir(), "DOCKER_CONTENT_TRUST=0"}
	if err := daemon.Image("made", "here", "ENV SIZE=1"); err != nil {
		t.Fatal(err)
	}
	up, here := h.address+"/lib/app:v1", c.address+"/default/hub.test/lib/app:v1"
	run(t, env, "docker", "login", "-u", "anybody", "-p", h.client.token, h.address)
	run(t, env, "docker", "login", "-u", "anybody", "-p", c.token, c.address)
	run(t, env, "docker", "tag", "made:here", up)
	run(t, env, "docker", "push", up)
	id := run(t, env, "docker", "inspect", "-f", "{{.Id}}", up)
	for _, away := range []bool{false, true} {
		run(t, env, "docker", "rmi", "-f", "made:here", up, here)
		if away {
			h.breaks(hangUp)
		}
		run(t, env, "docker", "pull", here)
		if got := run(t, env, "docker", "inspect", "-f", "{{.Id}}", here); got != id {
			t.Errorf("upstream has %s, and %s is pulled", id, got)
		}
	}
	if out, err := tryRun(t, env, "docker", "push", here); err == nil || !strings.Contains(out, "mirror") {
		t.Errorf("a push to a mirror says %v: %s", err, out)
	}
}

// TestMirrorSkopeo inspects, lists and copies by way of a mirror.
func TestMirrorSkopeo(t *testing.T) {
	t.Parallel()
	testenv.Require(t, "skopeo")
	c, h := mirrored(t)
	dir := t.TempDir()
	layout, policy := filepath.Join(dir, "image"), "--insecure-policy"
	writeLayout(t, layout)
	run(t, nil, "skopeo", policy, "copy", "--dest-creds", "anybody:"+h.client.token, "--dest-tls-verify=false", "oci:"+layout+":v1", "docker://"+h.address+"/lib/app:v1")
	image := "docker://" + c.address + "/default/hub.test/lib/app:v1"
	login := []string{"--creds", "anybody:" + c.token, "--tls-verify=false"}
	if got := run(t, nil, "skopeo", append([]string{"list-tags", strings.TrimSuffix(image, ":v1")}, login...)...); !strings.Contains(got, `"v1"`) {
		t.Errorf("the tags are %s", got)
	}
	run(t, nil, "skopeo", append([]string{"inspect", image}, login...)...)
	run(t, nil, "skopeo", policy, "copy", "--src-creds", "anybody:"+c.token, "--src-tls-verify=false", image, "dir:"+filepath.Join(dir, "back"))
	h.breaks(hangUp)
	run(t, nil, "skopeo", policy, "copy", "--src-creds", "anybody:"+c.token, "--src-tls-verify=false", image, "dir:"+filepath.Join(dir, "again"))
}

// TestMirrorGoContainerRegistry pulls an index 50 times at once, by tokens as Docker
// asks for them; each of its parts comes once from upstream.
func TestMirrorGoContainerRegistry(t *testing.T) {
	t.Parallel()
	c, h := mirrored(t)
	_, index := images(t)
	up, err := name.NewTag(h.address+"/lib/app:v1", name.Insecure)
	if err == nil {
		err = remote.WriteIndex(up, index, remote.WithAuth(&authn.Basic{Username: "anybody", Password: h.client.token}))
	}
	if err != nil {
		t.Fatal(err)
	}
	want, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"GET blobs", "GET manifests"} {
		h.count(kind)
	}
	at, err := name.NewDigest(c.address+"/default/hub.test/lib/app@"+want.String(), name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 50 {
		group.Go(func() {
			got, err := remote.Index(at, remote.WithAuth(&authn.Basic{Username: "anybody", Password: c.token}))
			if err == nil {
				err = validate.Index(got)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	// The index, its two images, and of each the config and two layers.
	if manifests, blobs := h.count("GET manifests"), h.count("GET blobs"); manifests != 3 || blobs != 6 {
		t.Errorf("50 clients have upstream asked for %d manifests and %d blobs", manifests, blobs)
	}
}

// TestMirrorTwice has two replicas fetch the same at once: both serve it, and it is
// here once.
func TestMirrorTwice(t *testing.T) {
	t.Parallel()
	onMirrors(t, registry.Limits{Read: time.Millisecond}, func(t *testing.T, w *mirrorWorld) {
		w.replica()
		large := fresh(20 << 20)
		w.hub.client.image("lib/base", "v1", large)
		// Upstream sends nothing before both have asked.
		asked, goOn := make(chan struct{}, 10), make(chan struct{})
		w.hub.breaks(func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") && r.Header.Get("Authorization") != "" {
				asked <- struct{}{}
				<-goOn
			}
			return false
		})
		go func() {
			defer close(goOn)
			for range w.replicas {
				select {
				case <-asked:
				case <-time.After(2 * time.Minute):
					t.Error("a replica does not ask")
					return
				}
			}
		}()
		var group sync.WaitGroup
		for _, r := range w.replicas {
			group.Go(func() {
				c := &pusher{t, r.url, w.token}
				c.do("GET", "/v2/acme/hub.test/lib/base/manifests/v1", nil).want(t, 200, "")
				if got := c.do("GET", "/v2/acme/hub.test/lib/base/blobs/"+string(registry.Of(registry.SHA256, large)), nil).want(t, 200, ""); !bytes.Equal(got.body, large) {
					t.Error("something else comes")
				}
			})
		}
		group.Wait()
		if n := w.hub.count("GET blobs"); n != 2 {
			t.Errorf("two replicas fetch a blob %d times", n)
		}
		w.pass(time.Second)
		w.swept()
		manifest := w.client(w.token).do("GET", "/v2/acme/hub.test/lib/base/manifests/v1", nil).want(t, 200, "")
		if n, used := w.stored(), w.used(nimbus.Org{ID: registry.MirrorAccount(w.acme.ID)}); n != 3 || used != int64(len(large)+len(manifest.body)) {
			t.Errorf("there are %d contents, and %d bytes in the books", n, used)
		}
	})
}

// TestMirrorKilled kills a registry in the midst of what it fetches, again and
// again: then it fetches that anew, right to the last byte, and in the end nothing
// is left of what was broken off.
func TestMirrorKilled(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	large := fresh(24 << 20)
	h.client.image("lib/base", "v1", large)
	digest := string(registry.Of(registry.SHA256, large))
	p := &process{t: t, home: home{DSN: storetest.SQLite(t), Dir: t.TempDir(), Key: filepath.Join(t.TempDir(), "key"), Inside: h.address}}
	setMirrorIn(t, p.home, nimbus.ImageMirrorChange{Name: "hub.test", Upstream: "http://" + h.address, Username: "puller", Password: h.token, Allow: []string{"*"}})
	p.start()
	defer func() { p.kill() }()
	for range 4 {
		halfway, over := make(chan struct{}), make(chan struct{})
		h.breaks(func(rw http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, digest) || r.Header.Get("Authorization") == "" {
				return false
			}
			rw.Header().Set("Content-Length", "25165824")
			rw.Write(large[:18<<20])
			http.NewResponseController(rw).Flush()
			close(halfway)
			<-over
			return true
		})
		broken := make(chan error, 1)
		c := &pusher{t, *p.address.Load(), "anything"}
		go func() {
			_, err := c.try("GET", "/v2/default/hub.test/lib/base/blobs/"+digest, nil)
			broken <- err
		}()
		<-halfway
		p.kill()
		if err := <-broken; err == nil {
			t.Error("half of a blob is taken for a whole")
		}
		close(over)
		p.start()
	}
	h.breaks(nil)
	c := &pusher{t, *p.address.Load(), "anything"}
	// Garbage is collected all the time: a pull may find that what it reads has gone.
	for tries := 0; ; tries++ {
		got, err := c.try("GET", "/v2/default/hub.test/lib/base/blobs/"+digest, nil)
		if err == nil && got.status == 200 {
			if !bytes.Equal(got.body, large) {
				t.Error("other bytes come")
			}
			break
		}
		if tries == 50 {
			t.Fatalf("it does not come: %v, %d %.300s", err, got.status, got.body)
		}
	}
	p.kill()
	p.home.Over = true
	p.start()
	folder := filepath.Join(p.home.Dir, "registry", registry.MirrorAccount(nimbus.DefaultOrgID))
	for deadline := time.Now().Add(90 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		left, err := os.ReadDir(folder)
		if err == nil && len(left) == 0 || os.IsNotExist(err) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d contents are left: %v", len(left), err)
		}
	}
}

// setMirrorIn sets a mirror of the default org in the home of a process.
func setMirrorIn(t *testing.T, h home, change nimbus.ImageMirrorChange) {
	t.Helper()
	db, err := store.Open(t.Context(), store.Config{DSN: h.DSN})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	keyring, err := identity.OpenKeyring(h.Key)
	if err != nil {
		t.Fatal(err)
	}
	s := registry.New(registry.Config{Store: db, Key: testKey, Secrets: identity.Secrets{Store: db, Keyring: keyring}, Inside: []string{h.Inside}})
	if err := s.SetMirror(t.Context(), identity.Root(), nimbus.DefaultOrgID, change); err != nil {
		t.Fatal(err)
	}
}
