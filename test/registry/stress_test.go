package registry_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/registry"
)

// stressFor is how long TestStress goes on: NIMBUS_SOAK_REGISTRY, or some seconds.
func stressFor(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("NIMBUS_SOAK_REGISTRY")
	if text == "" {
		return 5 * time.Second // on each engine
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// enough is how many images a crowd pushes at least, however slow the machine is.
const enough = 20

// pastAll is when nobody waits for enough images any more.
const pastAll = 5 * time.Minute

// goesOn has a crowd go on for a time, and on until it has pushed enough.
func (c *crowd) goesOn(lasts time.Duration) (on func() bool) {
	began := time.Now()
	return func() bool {
		passed := time.Since(began)
		return passed < lasts || c.images.Load() < enough && passed < pastAll
	}
}

const (
	pushers = 16
	// poolSize is how many contents all pushers share: what one removes another
	// pushes, mounts, or takes for there.
	poolSize = 48
)

// crowd is pushers who push, pull and remove images whose blobs they share.
type crowd struct {
	pool  [][]byte
	repos []string

	mu     sync.Mutex
	tagged map[string][]byte // REPO:TAG and its manifest

	images, removed, again atomic.Int64
}

func newCrowd(org string) *crowd {
	c := &crowd{tagged: map[string][]byte{}}
	for i := range poolSize {
		c.pool = append(c.pool, fresh(1+i*53))
	}
	for i := range 4 {
		c.repos = append(c.repos, fmt.Sprintf("%s/app%d", org, i))
	}
	return c
}

// work has one pusher go on until it is over, or a push fails otherwise than
// by what it relied on being collected; gone says of an error that the registry is
// away, after which nothing is known of what was under way.
func (c *crowd) work(cl *pusher, n int, on func() bool, gone func(error) bool) error {
	r := rand.New(rand.NewPCG(uint64(n), 7))
	for i := 0; on(); i++ {
		repo := c.repos[r.IntN(len(c.repos))]
		tag := fmt.Sprintf("p%d", n)
		var err error
		if r.IntN(2) > 0 {
			err = c.pushOne(cl, r, repo, tag)
		} else {
			err = c.removeOne(cl, r, repo, tag)
		}
		if err != nil && !gone(err) {
			return fmt.Errorf("pusher %d, step %d, %s:%s: %w", n, i, repo, tag, err)
		}
	}
	return nil
}

func status(a answer, err error, want ...int) error {
	if err == nil && !slices.Contains(want, a.status) {
		err = fmt.Errorf("answered by %d %s", a.status, a.reason())
	}
	return err
}

// errCollected says that a blob which was there is not there any more.
var errCollected = errors.New("a blob was collected")

// pushOne pushes an image as clients do: what is there already they do not send.
func (c *crowd) pushOne(cl *pusher, r *rand.Rand, repo, tag string) error {
	blobs := make([][]byte, 2+r.IntN(4))
	for i := range blobs {
		blobs[i] = c.pool[r.IntN(len(c.pool))]
	}
	m := manifestOf(blobs...)
	// From now on the tag may be what it was, or this.
	c.mu.Lock()
	delete(c.tagged, repo+":"+tag)
	c.mu.Unlock()
	for range 100 {
		for _, b := range blobs {
			if err := c.send(cl, r, repo, b); err != nil {
				return err
			}
		}
		a, err := cl.try("PUT", "/v2/"+repo+"/manifests/"+tag, m, "Content-Type", ociManifest)
		if err == nil && a.status == 400 && a.reason() == "MANIFEST_BLOB_UNKNOWN" {
			c.again.Add(1)
			continue
		}
		if err := status(a, err, 201); err != nil {
			return fmt.Errorf("push a manifest: %w", err)
		}
		c.images.Add(1)
		c.mu.Lock()
		c.tagged[repo+":"+tag] = m
		c.mu.Unlock()
		if r.IntN(8) == 0 {
			return c.pull(cl, repo, tag, m)
		}
		return nil
	}
	return errCollected
}

// send sends a blob that is not there, by one of the ways.
func (c *crowd) send(cl *pusher, r *rand.Rand, repo string, b []byte) error {
	digest := string(registry.Of(registry.SHA256, b))
	a, err := cl.try("HEAD", "/v2/"+repo+"/blobs/"+digest, nil)
	if err := status(a, err, 200, 404); err != nil {
		return fmt.Errorf("look for a blob: %w", err)
	}
	if a.status == 200 {
		return nil
	}
	uploads := "/v2/" + repo + "/blobs/uploads/"
	switch r.IntN(4) {
	case 0:
		a, err = cl.try("POST", uploads+"?digest="+digest, b)
		return status(a, err, 201)
	case 1:
		a, err = cl.try("POST", uploads+"?mount="+digest+"&from="+c.repos[r.IntN(len(c.repos))], nil)
		if err := status(a, err, 201, 202); err != nil || a.status == 201 {
			return err
		}
	default:
		a, err = cl.try("POST", uploads, nil)
		if err := status(a, err, 202); err != nil {
			return err
		}
	}
	half := 0
	if r.IntN(2) == 0 {
		half = len(b) / 2
		for _, part := range [][]byte{b[:half/2], b[half/2 : half]} {
			a, err = cl.try("PATCH", cl.at(a), part)
			if err := status(a, err, 202); err != nil {
				return fmt.Errorf("send a part: %w", err)
			}
		}
	}
	a, err = cl.try("PUT", cl.at(a, "digest", digest), b[half:])
	return status(a, err, 201)
}

// removeOne removes a tag of the pusher's own, or its whole manifest where no
// other may have the same.
func (c *crowd) removeOne(cl *pusher, r *rand.Rand, repo, tag string) error {
	c.mu.Lock()
	delete(c.tagged, repo+":"+tag)
	c.mu.Unlock()
	a, err := cl.try("DELETE", "/v2/"+repo+"/manifests/"+tag, nil)
	if err := status(a, err, 202, 404); err != nil {
		return fmt.Errorf("remove a tag: %w", err)
	}
	if a.status == 202 {
		c.removed.Add(1)
	}
	if r.IntN(4) > 0 {
		return nil
	}
	// A blob that may be in use: then it is refused.
	b := c.pool[r.IntN(len(c.pool))]
	a, err = cl.try("DELETE", "/v2/"+repo+"/blobs/"+string(registry.Of(registry.SHA256, b)), nil)
	return status(a, err, 202, 404, 405)
}

type layer struct {
	Digest string `json:"digest"`
}

// pull pulls an image and compares all of it.
func (c *crowd) pull(cl *pusher, repo, tag string, want []byte) error {
	a, err := cl.try("GET", "/v2/"+repo+"/manifests/"+tag, nil)
	if err := status(a, err, 200); err != nil {
		return fmt.Errorf("pull %s:%s: %w", repo, tag, err)
	}
	if registry.Of(registry.SHA256, a.body) != registry.Of(registry.SHA256, want) {
		return fmt.Errorf("%s:%s is another manifest", repo, tag)
	}
	var m struct {
		Config layer   `json:"config"`
		Layers []layer `json:"layers"`
	}
	if err := json.Unmarshal(a.body, &m); err != nil {
		return err
	}
	for _, l := range append(m.Layers, m.Config) {
		a, err := cl.try("GET", "/v2/"+repo+"/blobs/"+l.Digest, nil)
		if err := status(a, err, 200); err != nil {
			return fmt.Errorf("pull %s of %s:%s: %w", l.Digest, repo, tag, err)
		}
		if got := registry.Of(registry.SHA256, a.body); string(got) != l.Digest {
			return fmt.Errorf("%s of %s:%s has the content of %s", l.Digest, repo, tag, got)
		}
	}
	return nil
}

// holds pulls everything that has a tag.
func (c *crowd) holds(t *testing.T, cl *pusher) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(c.tagged)) {
		i := slices.Index([]byte(name), ':')
		if err := c.pull(cl, name[:i], name[i+1:], c.tagged[name]); err != nil {
			t.Error(err)
		}
	}
	if len(c.tagged) == 0 || c.images.Load() < enough {
		t.Errorf("%d images were pushed, %d tags are left", c.images.Load(), len(c.tagged))
	}
}

// TestStress has a crowd push and remove while garbage is collected all the time,
// with a grace that is shorter than many a push. Then every tag pulls, byte by byte;
// and when all of them are removed nothing is left, on the disk or in the books.
//
// These guards were taken out, each alone, and it was red: see docs/testing.md.
func TestStress(t *testing.T) {
	limits := registry.Limits{Grace: 150 * time.Millisecond, Untagged: 100 * time.Millisecond, Read: time.Millisecond}
	for name, dsn := range engines {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, dsn(t), folder(t, t.TempDir()), limits)
			w.replica()
			o := w.org("acme")
			token := w.token(o, nimbus.RoleOperator)
			c := newCrowd("acme")
			on := c.goesOn(stressFor(t))
			var group sync.WaitGroup
			var collected atomic.Int64
			for _, r := range w.replicas {
				group.Go(func() {
					for on() {
						done, err := r.Collect(t.Context())
						if err != nil {
							t.Errorf("collect: %v", err)
							return
						}
						collected.Add(int64(done.Blobs))
					}
				})
			}
			for n := range pushers {
				cl := &pusher{t, w.replicas[n%2].url, token}
				group.Go(func() {
					if err := c.work(cl, n, on, func(error) bool { return false }); err != nil {
						t.Error(err)
					}
				})
			}
			group.Wait()
			cl := w.client(token)
			c.holds(t, cl)
			t.Logf("%d images pushed, %d removed, %d times a blob was collected before its manifest came, %d blobs collected, %d tags left",
				c.images.Load(), c.removed.Load(), c.again.Load(), collected.Load(), len(c.tagged))
			for name := range c.tagged {
				i := slices.Index([]byte(name), ':')
				cl.do("DELETE", "/v2/"+name[:i]+"/manifests/"+name[i+1:], nil)
			}
			w.pass(time.Hour)
			for range 3 { // manifests, then what they named, then its content
				w.swept()
				w.pass(time.Second)
			}
			if w.used(o) != 0 || w.stored() != 0 {
				t.Errorf("of nothing %d bytes are counted, and %d contents stored", w.used(o), w.stored())
			}
		})
	}
}
