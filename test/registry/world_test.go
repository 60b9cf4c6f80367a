package registry_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob/fs"
	"github.com/nimbus-ci/nimbus/internal/blob/s3"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/registry"
	"github.com/nimbus-ci/nimbus/internal/registry/distribution"
	"github.com/nimbus-ci/nimbus/internal/store"
	"github.com/nimbus-ci/nimbus/internal/store/storetest"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// world is a registry on a database and a disk, with as many replicas as a test
// wants, whose clock the test moves.
type world struct {
	t        testing.TB
	db       *store.Store
	blobs    registry.Blobs
	identity *identity.Service
	replicas []*replicaOf
	limits   registry.Limits

	mu     sync.Mutex
	offset time.Duration
	jobs   map[string]nimbus.Principal // tokens of jobs
	works  map[string]registry.Work    // of attempts

	inside []string    // registries that mirrors may ask though they are here
	heard  mirrorTally // what mirrors did
	log    *safeLog    // of all replicas
	keys   identity.Secrets
}

// replicaOf is one replica.
type replicaOf struct {
	*registry.Service
	url string
}

// Now implements nimbus.Clock.
func (w *world) Now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.offset)
}

// pass moves the clocks of replicas and of the database.
func (w *world) pass(d time.Duration) {
	w.t.Helper()
	w.mu.Lock()
	w.offset += d
	offset := w.offset
	w.mu.Unlock()
	w.must(w.db.OffsetClock(context.WithoutCancel(w.t.Context()), offset))
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// engines are the databases that a test runs on.
var engines = map[string]func(testing.TB) string{"sqlite": storetest.SQLite, "postgres": storetest.Postgres}

// onEngines runs a test on both.
func onEngines(t *testing.T, limits registry.Limits, test func(t *testing.T, w *world)) {
	for name, dsn := range engines {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, newWorld(t, dsn(t), folder(t, t.TempDir()), limits))
		})
	}
}

// folder keeps contents in a directory.
func folder(t testing.TB, dir string) registry.Blobs {
	t.Helper()
	blobs, err := fs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := blobs.Close(); err != nil {
			t.Error(err)
		}
	})
	return blobs
}

// bucket is where contents are that are kept by S3, on a server of the test's.
func bucket(t testing.TB) s3.Config {
	t.Helper()
	objects := testenv.S3(t)
	credentials := filepath.Join(t.TempDir(), "credentials")
	content := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", objects.AccessKey, objects.SecretKey)
	if err := os.WriteFile(credentials, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return s3.Config{Endpoint: objects.URL, Bucket: objects.Bucket, Prefix: "nimbus/", CredentialsFile: credentials}
}

// inBucket keeps contents there.
func inBucket(t testing.TB, at s3.Config) registry.Blobs {
	t.Helper()
	blobs, err := s3.Open(at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := blobs.Close(); err != nil {
			t.Error(err)
		}
	})
	return blobs
}

func newWorld(t testing.TB, dsn string, blobs registry.Blobs, limits registry.Limits) *world {
	t.Helper()
	w := &world{t: t, blobs: blobs, limits: limits, jobs: map[string]nimbus.Principal{}, works: map[string]registry.Work{}}
	var err error
	w.db, err = store.Open(t.Context(), store.Config{DSN: dsn})
	w.must(err)
	t.Cleanup(func() { w.must(w.db.Close()) })
	w.identity = identity.New(w.db, nimbus.SystemClock{})
	w.log = &safeLog{to: t.Output()}
	keyring, err := identity.OpenKeyring(filepath.Join(t.TempDir(), "key"))
	w.must(err)
	w.keys = identity.Secrets{Store: w.db, Keyring: keyring}
	w.replica()
	return w
}

var testKey = []byte("a secret of the test's, thirty-two")

// replica starts another one.
func (w *world) replica() *replicaOf {
	w.t.Helper()
	log := slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelInfo}))
	s := registry.New(registry.Config{Store: w.db, Blobs: w.blobs, Key: testKey, Limits: w.limits, Clock: w, Log: log, Secrets: w.keys, Inside: w.inside, Mirrors: &w.heard})
	handler, err := distribution.New(distribution.Config{Registry: s, Identity: knowsJobs{w}, Work: w.work, Key: testKey, Clock: w, Log: log})
	w.must(err)
	server := httptest.NewServer(handler)
	w.t.Cleanup(server.Close)
	r := &replicaOf{s, server.URL}
	w.replicas = append(w.replicas, r)
	return r
}

// work is what an attempt works on, as a test has made it up.
func (w *world) work(_ context.Context, _, attemptID string) (registry.Work, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	work, ok := w.works[attemptID]
	if !ok {
		return work, nimbus.Errorf(nimbus.CodeUnavailable, "nobody knows what %s works on", attemptID)
	}
	return work, nil
}

// knowsJobs also knows the tokens of jobs that a test has made up.
type knowsJobs struct{ *world }

func (k knowsJobs) Authenticate(ctx context.Context, token string) (nimbus.Principal, error) {
	k.mu.Lock()
	p, ok := k.jobs[token]
	k.mu.Unlock()
	if ok {
		return p, nil
	}
	return k.identity.Authenticate(ctx, token)
}

func (k knowsJobs) Org(ctx context.Context, name string) (nimbus.Org, error) {
	return k.identity.Org(ctx, name)
}

func (k knowsJobs) Orgs(ctx context.Context, p nimbus.Principal, page nimbus.PageRequest) ([]nimbus.Org, string, error) {
	return k.identity.Orgs(ctx, p, page)
}

// org makes an org.
func (w *world) org(name string) nimbus.Org {
	w.t.Helper()
	o, err := w.identity.CreateOrg(w.t.Context(), identity.Root(), name, nil)
	w.must(err)
	return o
}

// token makes one of a service account of an org.
func (w *world) token(o nimbus.Org, role nimbus.Role, scopes ...nimbus.Scope) string {
	w.t.Helper()
	admin, _ := identity.Root().In(o.ID)
	account, err := w.identity.CreateAccount(w.t.Context(), admin, strings.ToLower("a-"+rand.Text()[:8]), role)
	w.must(err)
	secret, _, err := w.identity.CreateToken(w.t.Context(), admin, nimbus.NewToken{Name: "test", AccountID: account.ID, Scopes: scopes})
	w.must(err)
	return secret
}

// pusher speaks with a replica by a token, and as others do who don't ask the
// registry for one of its own.
type pusher struct {
	t     testing.TB
	url   string
	token string
}

func (w *world) client(token string) *pusher { return &pusher{w.t, w.replicas[0].url, token} }

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// reason is the word of the error that came back.
func (a answer) reason() string {
	var e struct {
		Errors []struct {
			Code string `json:"code"`
		} `json:"errors"`
	}
	if json.Unmarshal(a.body, &e) != nil || len(e.Errors) != 1 {
		return fmt.Sprintf("%.100q", a.body)
	}
	return e.Errors[0].Code
}

func (c *pusher) do(method, path string, body []byte, headers ...string) answer {
	c.t.Helper()
	a, err := c.try(method, path, body, headers...)
	if err != nil {
		c.t.Fatal(err)
	}
	return a
}

func (c *pusher) try(method, path string, body []byte, headers ...string) (answer, error) {
	to := path
	if strings.HasPrefix(path, "/") {
		to = c.url + path
	}
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	request, err := http.NewRequestWithContext(context.WithoutCancel(c.t.Context()), method, to, r)
	if err != nil {
		return answer{}, err
	}
	if c.token != "" {
		request.SetBasicAuth("anybody", c.token)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header, got}, err
}

// want fails unless the answer has a status, and a reason where that is one.
func (a answer) want(t testing.TB, status int, reason string) answer {
	t.Helper()
	if a.status != status || reason != "" && a.reason() != reason {
		t.Errorf("it is answered by %d %s, want %d %s\n%.500s", a.status, a.reason(), status, reason, a.body)
	}
	return a
}

// push pushes a blob by POST and PUT, and returns its digest.
func (c *pusher) push(repo string, content []byte) registry.Digest {
	c.t.Helper()
	digest := registry.Of(registry.SHA256, content)
	begun := c.do("POST", "/v2/"+repo+"/blobs/uploads/", nil).want(c.t, 202, "")
	c.do("PUT", c.at(begun, "digest", string(digest)), content).want(c.t, 201, "")
	return digest
}

// at is where an upload goes on.
func (c *pusher) at(a answer, pairs ...string) string {
	c.t.Helper()
	u, err := url.Parse(a.header.Get("Location"))
	if err != nil || u.Path == "" {
		c.t.Fatalf("the location is %q: %v", a.header.Get("Location"), err)
	}
	query := u.Query()
	for i := 0; i+1 < len(pairs); i += 2 {
		query.Set(pairs[i], pairs[i+1])
	}
	u.RawQuery = query.Encode()
	return u.String()
}

const ociManifest = "application/vnd.oci.image.manifest.v1+json"

// manifestOf is a manifest of blobs, the first of them the config.
func manifestOf(blobs ...[]byte) []byte {
	type descriptor struct {
		MediaType string          `json:"mediaType"`
		Digest    registry.Digest `json:"digest"`
		Size      int             `json:"size"`
	}
	all := make([]descriptor, len(blobs))
	for i, b := range blobs {
		all[i] = descriptor{"application/vnd.oci.image.layer.v1.tar", registry.Of(registry.SHA256, b), len(b)}
	}
	all[0].MediaType = "application/vnd.oci.image.config.v1+json"
	text, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": ociManifest, "config": all[0], "layers": all[1:]})
	if err != nil {
		panic(err)
	}
	return text
}

// image pushes an image, and returns its manifest.
func (c *pusher) image(repo, tag string, blobs ...[]byte) []byte {
	c.t.Helper()
	for _, b := range blobs {
		c.push(repo, b)
	}
	m := manifestOf(blobs...)
	c.do("PUT", "/v2/"+repo+"/manifests/"+tag, m, "Content-Type", ociManifest).want(c.t, 201, "")
	return m
}

// fresh are random bytes.
func fresh(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// swept sweeps by the first replica, and returns what that removed.
func (w *world) swept() nimbus.ImagesSwept {
	w.t.Helper()
	done, err := w.replicas[0].Collect(w.t.Context())
	w.must(err)
	return done
}

// stored is how many contents there are.
func (w *world) stored() int {
	w.t.Helper()
	n, err := contents(w.t.Context(), w.blobs)
	w.must(err)
	return n
}

func contents(ctx context.Context, blobs registry.Blobs) (n int, err error) {
	for after := ""; ; {
		page, err := blobs.List(ctx, "registry/", after, 0)
		if err != nil {
			return n, err
		}
		n += len(page)
		if len(page) == 0 {
			return n, nil
		}
		after = page[len(page)-1].Key
	}
}

// used is how many bytes the books say that an org has.
func (w *world) used(o nimbus.Org) int64 {
	w.t.Helper()
	u, err := w.replicas[0].Usage(w.t.Context(), o.ID)
	w.must(err)
	return u.Bytes
}
