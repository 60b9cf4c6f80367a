package cache_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob"
	"github.com/nimbus-ci/nimbus/internal/blob/fs"
	"github.com/nimbus-ci/nimbus/internal/blob/s3"
	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/store"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

var (
	killUploads = flag.Int("kill.uploads", 200, "how many uploads are made while servers are killed")
	killSeed    = flag.Uint64("kill.seed", 0, "the seed of what is uploaded; 0 for another one each time")
)

// TestKilled kills servers with SIGKILL while eight clients upload, and starts them
// anew. Afterwards each entry that was committed reads back with its hash, what
// was not is not there, nothing else is kept, and the books are exact.
func TestKilled(t *testing.T) {
	program := nimbusProgram(t)
	t.Run("sqlite and a folder", func(t *testing.T) {
		t.Parallel()
		data := t.TempDir()
		one := serve(t, program, data, nil, "up", "--no-agent")
		k := newKilling(t, []*process{one}, jobToken(t, one, data))
		k.run()
		one.end(syscall.SIGTERM)
		blobs, err := fs.Open(filepath.Join(data, "cache"))
		k.must(err)
		defer blobs.Close()
		k.settle("sqlite:"+filepath.Join(data, "nimbus.db"), blobs)
	})
	t.Run("two replicas on postgres and a bucket", func(t *testing.T) {
		t.Parallel()
		plane := newReplicas(t, program)
		k := newKilling(t, plane.replicas, plane.token)
		k.run()
		for _, p := range plane.replicas {
			p.end(syscall.SIGTERM)
		}
		bucket, err := s3.Open(plane.bucket)
		k.must(err)
		defer bucket.Close()
		k.settle(plane.database, bucket)
	})
}

// replicas are two servers on one database and one bucket.
type replicas struct {
	replicas []*process
	database string
	bucket   s3.Config
	token    string
}

func newReplicas(t testing.TB, program string) *replicas {
	t.Helper()
	objects, database := testenv.S3(t), testenv.Postgres(t)
	credentials := filepath.Join(t.TempDir(), "credentials")
	content := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", objects.AccessKey, objects.SecretKey)
	if err := os.WriteFile(credentials, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &replicas{database: database, bucket: s3.Config{Endpoint: objects.URL, Bucket: objects.Bucket, Region: "us-east-1", CredentialsFile: credentials}}
	data := t.TempDir()
	env := []string{"NIMBUS_DATABASE=" + database}
	args := []string{"server", "--s3-endpoint", objects.URL, "--s3-bucket", objects.Bucket, "--s3-credentials-file", credentials, "--drain", "0s"}
	for range 2 {
		r.replicas = append(r.replicas, serve(t, program, data, env, slices.Clone(args)...))
	}
	r.token = jobToken(t, r.replicas[0], data)
	return r
}

// killing is what is known of uploads while servers are killed.
type killing struct {
	t         testing.TB
	processes []*process
	token     string
	seed      uint64
	http      *http.Client
	done      atomic.Int64

	mu        sync.Mutex
	committed map[string][sha256.Size]byte // by key
	perhaps   map[string][sha256.Size]byte // whose commit got no answer
}

func newKilling(t testing.TB, processes []*process, token string) *killing {
	t.Helper()
	k := &killing{t: t, processes: processes, token: token, seed: *killSeed,
		http:      &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 16}},
		committed: map[string][sha256.Size]byte{}, perhaps: map[string][sha256.Size]byte{}}
	if k.seed == 0 {
		k.seed = rand.Uint64()
	}
	t.Logf("play it again by -kill.seed %d", k.seed)
	return k
}

func (k *killing) must(err error) {
	k.t.Helper()
	if err != nil {
		k.t.Fatal(err)
	}
}

// killEach is after how many uploads a server is killed.
const killEach = 40

// run uploads, and kills.
func (k *killing) run() {
	k.t.Helper()
	var clients sync.WaitGroup
	next := make(chan int)
	for range 8 {
		clients.Go(func() {
			for n := range next {
				k.upload(n)
				k.done.Add(1)
			}
		})
	}
	uploaded, kills := make(chan struct{}), 0
	go func() {
		defer close(uploaded)
		for n := range *killUploads {
			next <- n
		}
		close(next)
		clients.Wait()
	}()
	random := rand.New(rand.NewPCG(k.seed, 0))
	for due := int64(killEach); due <= int64(*killUploads); due += killEach {
		for over := false; !over && k.done.Load() < due-killEach/2; {
			select {
			case <-uploaded:
				over = true
			case <-time.After(time.Millisecond):
			}
		}
		time.Sleep(time.Duration(random.IntN(50)) * time.Millisecond) // any moment
		p := k.processes[random.IntN(len(k.processes))]
		p.end(syscall.SIGKILL)
		kills++
		p.start()
	}
	<-uploaded
	k.t.Logf("%d uploads: %d committed, %d perhaps, %d servers killed", *killUploads, len(k.committed), len(k.perhaps), kills)
	if len(k.committed) < *killUploads/10 {
		k.t.Errorf("%d of %d uploads were committed, which proves nothing", len(k.committed), *killUploads)
	}
}

// upload saves a content of a random form, some of it more than once, in any
// order, and now and then gives up. A server that is gone ends it.
func (k *killing) upload(n int) {
	random := rand.New(rand.NewPCG(k.seed, uint64(n)+1))
	key := fmt.Sprintf("upload-%d", n)
	var answer map[string]any
	for ok := false; !ok; time.Sleep(time.Millisecond) { // until one answers
		if answer, ok = k.call(random, "CreateCacheEntry", map[string]any{"key": key}); !ok && answer != nil {
			return // it did, and the answer was lost
		}
		if k.t.Context().Err() != nil {
			return
		}
	}
	target, _ := answer["signed_upload_url"].(string)
	blocks, whole := make([][]byte, random.IntN(10)), sha256.New()
	size := 0
	for i := range blocks {
		blocks[i] = make([]byte, random.IntN(400<<10))
		for j := range blocks[i] {
			blocks[i][j] = byte(random.Uint32())
		}
		whole.Write(blocks[i])
		size += len(blocks[i])
	}
	if !k.send(random, target, blocks) || random.IntN(10) == 0 {
		return
	}
	sum := [sha256.Size]byte(whole.Sum(nil))
	k.note(k.perhaps, key, sum)
	if random.IntN(10) == 0 { // a size that lies
		if _, ok := k.call(random, "FinalizeCacheEntryUpload", map[string]any{"key": key, "size_bytes": size + 1}); ok {
			k.t.Errorf("%s is committed with a wrong size", key)
		}
	}
	if _, ok := k.call(random, "FinalizeCacheEntryUpload", map[string]any{"key": key, "size_bytes": size}); ok {
		k.note(k.committed, key, sum)
	}
}

func (k *killing) note(in map[string][sha256.Size]byte, key string, sum [sha256.Size]byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	in[key] = sum
}

// send sends blocks and their list, or one alone as a blob.
func (k *killing) send(random *rand.Rand, target string, blocks [][]byte) bool {
	if len(blocks) == 1 && random.IntN(2) == 0 {
		return k.put(random, target, blocks[0])
	}
	id := func(i int) string { return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%048d", i)) }
	part := func(i int) string { return target + "&comp=block&blockid=" + url.QueryEscape(id(i)) }
	for _, i := range random.Perm(len(blocks)) {
		if random.IntN(5) == 0 && !k.put(random, part(i), []byte("an older content of it")) {
			return false
		}
		if !k.put(random, part(i), blocks[i]) {
			return false
		}
	}
	if random.IntN(5) == 0 && !k.put(random, part(1000), []byte("one that is not in the list")) {
		return false
	}
	var list strings.Builder
	list.WriteString("<BlockList>")
	for i := range blocks {
		list.WriteString("<Latest>" + id(i) + "</Latest>")
	}
	list.WriteString("</BlockList>")
	return k.put(random, target+"&comp=blocklist", []byte(list.String()))
}

// at is a request to any of the servers, whichever a URL is of.
func (k *killing) at(random *rand.Rand, target string) string {
	u, err := url.Parse(target)
	if err != nil {
		return target
	}
	return k.processes[random.IntN(len(k.processes))].url + u.RequestURI()
}

func (k *killing) put(random *rand.Rand, target string, content []byte) bool {
	r, err := http.NewRequest(http.MethodPut, k.at(random, target), bytes.NewReader(content))
	if err != nil {
		k.t.Error(err)
		return false
	}
	r.Header.Set("X-Ms-Blob-Type", "BlockBlob")
	answer, err := k.http.Do(r)
	if err != nil {
		return false
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	return err == nil && answer.StatusCode == http.StatusCreated
}

func (k *killing) call(random *rand.Rand, method string, fields map[string]any) (answer map[string]any, ok bool) {
	fields["version"] = version
	body, err := json.Marshal(fields)
	if err != nil {
		k.t.Error(err)
		return nil, false
	}
	r, err := http.NewRequest(http.MethodPost, k.at(random, "http://any"+twirpPath+method), bytes.NewReader(body))
	if err != nil {
		k.t.Error(err)
		return nil, false
	}
	r.Header.Set("Authorization", "Bearer "+k.token)
	r.Header.Set("Content-Type", "application/json")
	response, err := k.http.Do(r)
	if err != nil {
		return nil, false
	}
	defer response.Body.Close()
	if json.NewDecoder(response.Body).Decode(&answer) != nil {
		return nil, false
	}
	return answer, answer["ok"] == true
}

// settle looks at what the servers have left, once they are gone.
func (k *killing) settle(dsn string, blobs blob.Store) {
	k.t.Helper()
	ctx := k.t.Context()
	db, err := store.Open(ctx, store.Config{DSN: dsn, AsIs: true})
	k.must(err)
	defer db.Close()
	// Uploads are idle at once, and what nothing names is old at once.
	service := cache.New(cache.Config{Store: db, Blobs: blobs, Log: slog.New(slog.DiscardHandler), Limits: cache.Limits{Idle: time.Nanosecond, Orphan: time.Nanosecond}})
	stored := k.swept(service, blobs)
	var named []string
	there, bytes, entries := map[string]bool{}, int64(0), int64(0)
	for token := ""; ; {
		page, next, err := service.List(ctx, nimbus.DefaultOrgID, cache.AllRepos, cache.Filter{}, nimbus.PageRequest{Token: token})
		k.must(err)
		for _, e := range page {
			there[e.Key], bytes, entries = true, bytes+e.Size, entries+1
			k.reads(service, e)
			names, err := db.CacheBlobNames(ctx, e.ID, cache.MaxBlocks)
			k.must(err)
			for _, name := range names {
				named = append(named, fmt.Sprintf("cache/%s/%d/%s", e.OrgID, e.ID, name))
			}
		}
		if token = next; token == "" {
			break
		}
	}
	for key := range k.committed {
		if !there[key] {
			k.t.Errorf("%s was committed, and is gone", key)
		}
	}
	slices.Sort(named)
	if diff := cmp.Diff(named, stored); diff != "" {
		k.t.Errorf("contents (-named +stored):\n%s", diff)
	}
	st, err := service.Stats(ctx, nimbus.DefaultOrgID)
	k.must(err)
	for _, u := range append(st.Repos, st.Usage) {
		if u.Bytes != bytes || u.Entries != entries {
			k.t.Errorf("the books of %q have %d entries of %d bytes, there are %d of %d", u.Repo, u.Entries, u.Bytes, entries, bytes)
		}
	}
}

// swept sweeps until nothing more goes, and returns the contents that stay: each sweep
// gives only so many uploads up, and looks through only so many contents.
func (k *killing) swept(service *cache.Service, blobs blob.Store) (stored []string) {
	k.t.Helper()
	ctx := k.t.Context()
	before := int64(-1)
	for n := 0; ; n++ {
		k.must(service.Sweep(ctx))
		stored = nil
		for after := ""; ; {
			page, err := blobs.List(ctx, "cache/", after, 0)
			k.must(err)
			for _, b := range page {
				stored, after = append(stored, b.Key), b.Key
			}
			if len(page) == 0 {
				break
			}
		}
		st, err := service.Stats(ctx, nimbus.DefaultOrgID)
		k.must(err)
		if st.Entries == before && n > len(stored)/(10*blob.MaxList) { // a sweep looks through more
			return stored
		}
		if n > *killUploads {
			k.t.Fatalf("after %d sweeps there is still something that goes", n)
		}
		before = st.Entries
	}
}

// reads fails unless an entry is what its client sent.
func (k *killing) reads(service *cache.Service, e cache.Entry) {
	k.t.Helper()
	content, err := service.Open(k.t.Context(), e, 0, -1)
	k.must(err)
	defer content.Close()
	got := sha256.New()
	if _, err := io.Copy(got, content); err != nil {
		k.t.Errorf("%s can't be read: %v", e.Key, err)
	}
	if want, known := k.perhaps[e.Key]; !known || want != [sha256.Size]byte(got.Sum(nil)) {
		k.t.Errorf("%s is there with another content (its commit was asked for: %v)", e.Key, known)
	}
}
