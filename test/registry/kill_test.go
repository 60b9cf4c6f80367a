package registry_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
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
)

// childVariable has this program be the registry of a home, instead of tests.
const childVariable = "NIMBUS_TEST_REGISTRY_IN"

// home is where a registry keeps what it has: in a directory, or in a bucket.
type home struct {
	DSN string `json:"dsn"`
	Dir string `json:"dir"`

	// Or, where URL is set, in a bucket.
	URL         string `json:"url"`
	Bucket      string `json:"bucket"`
	Credentials string `json:"credentials"` // the file with them

	// Of mirrors: the file of the key by which their logins are sealed, and who may be
	// asked though it is here.
	Key    string `json:"key"`
	Inside string `json:"inside"`

	Over bool `json:"over"` // nobody pushes any more
}

func (h home) open() (blobs registry.Blobs, closed func() error, err error) {
	if h.URL != "" {
		place, err := s3.Open(s3.Config{Endpoint: h.URL, Bucket: h.Bucket, CredentialsFile: h.Credentials})
		return place, place.Close, err
	}
	place, err := fs.Open(h.Dir)
	return place, place.Close, err
}

// stressLimits have garbage collected sooner than many a push takes. What a kill leaves
// of a push, or without a row, goes at once when all pushes are over; before that it
// stays for longer than any call here takes.
func stressLimits(over bool) registry.Limits {
	limits := registry.Limits{Grace: 150 * time.Millisecond, Untagged: 100 * time.Millisecond, Read: time.Millisecond, Idle: 2 * time.Minute, Orphan: 4 * time.Minute}
	if over {
		limits.Idle, limits.Orphan = time.Second, 2*time.Second
	}
	return limits
}

// child serves a home until it is killed, and collects all the time.
func child(text string) error {
	ctx, log := context.Background(), slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	var h home
	if err := json.Unmarshal([]byte(text), &h); err != nil {
		return err
	}
	db, err := store.Open(ctx, store.Config{DSN: h.DSN})
	if err != nil {
		return err
	}
	blobs, _, err := h.open()
	if err != nil {
		return err
	}
	cfg := registry.Config{Store: db, Blobs: blobs, Key: testKey, Limits: stressLimits(h.Over), Log: log, Inside: []string{h.Inside}}
	if h.Key != "" {
		keyring, err := identity.OpenKeyring(h.Key)
		if err != nil {
			return err
		}
		cfg.Secrets = identity.Secrets{Store: db, Keyring: keyring}
	}
	s := registry.New(cfg)
	handler, err := distribution.New(distribution.Config{Registry: s, Identity: onlyRoot{identity.New(db, nimbus.SystemClock{})}, Work: noJobs, Key: testKey, Log: log})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() {
		for {
			if err := s.Sweep(ctx); err != nil {
				fmt.Fprintln(os.Stderr, "collect:", err)
				os.Exit(1)
			}
		}
	}()
	fmt.Println(l.Addr())
	return http.Serve(l, handler)
}

func noJobs(context.Context, string, string) (registry.Work, error) {
	return registry.Work{}, errors.New("there are no jobs here")
}

// onlyRoot takes everybody for the administrator.
type onlyRoot struct{ *identity.Service }

func (onlyRoot) Authenticate(context.Context, string) (nimbus.Principal, error) {
	return identity.Root(), nil
}

// process is a registry that may be killed at any time, and comes back.
type process struct {
	t       *testing.T
	home    home
	cmd     *exec.Cmd
	address atomic.Pointer[string]
}

func (p *process) start() {
	p.t.Helper()
	text, err := json.Marshal(p.home)
	if err != nil {
		p.t.Fatal(err)
	}
	p.cmd = exec.Command(os.Args[0])
	p.cmd.Env = append(os.Environ(), childVariable+"="+string(text))
	p.cmd.Stderr = p.t.Output()
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		p.t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		p.t.Fatalf("the registry did not start: %v", err)
	}
	url := "http://" + strings.TrimSpace(line)
	p.address.Store(&url)
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait() // it says that it was killed
}

// TestKilled kills a registry at any moment, again and again, while a crowd pushes
// and removes and garbage is collected. Whatever was acknowledged then pulls, byte
// by byte; and once everything is removed, nothing is left.
func TestKilled(t *testing.T) {
	for name, of := range map[string]func(*testing.T) home{
		"fs and SQLite": func(t *testing.T) home {
			return home{DSN: storetest.SQLite(t), Dir: t.TempDir()}
		},
		"S3 and PostgreSQL": func(t *testing.T) home {
			at := bucket(t)
			return home{DSN: storetest.Postgres(t), URL: at.Endpoint, Bucket: at.Bucket, Credentials: at.CredentialsFile}
		},
	} {
		t.Run(name, func(t *testing.T) { killed(t, of(t)) })
	}
}

func killed(t *testing.T, h home) {
	p := &process{t: t, home: h}
	p.start()
	defer func() { p.kill() }()
	c := newCrowd(nimbus.DefaultOrg)
	lasts := stressFor(t)
	if h.URL != "" {
		lasts *= 2 // each call takes longer, and as many are wanted
	}
	on := c.goesOn(lasts)
	var group sync.WaitGroup
	for n := range pushers {
		group.Go(func() {
			for on() {
				cl := &pusher{t: t, url: *p.address.Load(), token: "root"}
				away := false
				err := c.work(cl, n, on, func(err error) bool {
					var op *net.OpError
					away = errors.As(err, &op) || strings.Contains(err.Error(), "EOF") || strings.Contains(err.Error(), "server closed idle connection")
					return false
				})
				if err != nil && !away {
					t.Error(err)
					return
				}
				time.Sleep(10 * time.Millisecond) // it comes back
			}
		})
	}
	kills := 0
	for on() {
		// It lives for a few images, and then for any time.
		few, lazy := c.images.Load()+5, time.Now().Add(5*time.Second)
		for c.images.Load() < few && time.Now().Before(lazy) {
			time.Sleep(5 * time.Millisecond)
		}
		time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond)
		p.kill()
		p.start()
		kills++
	}
	group.Wait()
	cl := &pusher{t: t, url: *p.address.Load(), token: "root"}
	c.holds(t, cl)
	t.Logf("%d kills, %d images pushed, %d tags left", kills, c.images.Load(), len(c.tagged))
	for _, repo := range c.repos {
		for n := range pushers {
			cl.do("DELETE", fmt.Sprintf("/v2/%s/manifests/p%d", repo, n), nil)
		}
	}
	blobs, closed, err := h.open()
	if err != nil {
		t.Fatal(err)
	}
	defer closed()
	p.kill()
	p.home.Over = true
	p.start()
	// It takes as long as it takes, but it goes on.
	deadline, least := time.Now().Add(time.Minute), math.MaxInt
	for left := -1; left != 0; {
		if left, err = contents(t.Context(), blobs); err != nil || left > 0 && time.Now().After(deadline) {
			t.Fatalf("%d contents are left of nothing, %v", left, err)
		}
		if left < least {
			deadline, least = time.Now().Add(time.Minute), left
		}
		time.Sleep(100 * time.Millisecond)
	}
	p.kill()
	db, err := store.Open(t.Context(), store.Config{DSN: h.DSN})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if u, err := db.RegistryUsage(t.Context(), nimbus.DefaultOrgID); err != nil || u.Bytes != 0 {
		t.Errorf("%d bytes are counted of nothing, %v", u.Bytes, err)
	}
	p.start()
}
