package registry_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob/fs"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/registry"
	"github.com/nimbus-ci/nimbus/internal/registry/distribution"
	"github.com/nimbus-ci/nimbus/internal/store"
)

// childVariable has this program be a registry in a directory, instead of tests.
const childVariable = "NIMBUS_TEST_REGISTRY_IN"

// stressLimits have garbage collected sooner than many a push takes. What a kill
// leaves without a row goes after some seconds, which no call here takes.
func stressLimits() registry.Limits {
	return registry.Limits{Grace: 150 * time.Millisecond, Untagged: 100 * time.Millisecond, Read: time.Millisecond, Idle: 5 * time.Second, Orphan: 5 * time.Second}
}

// child serves a directory until it is killed, and collects all the time.
func child(dir string) error {
	ctx, log := context.Background(), slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	db, err := store.Open(ctx, store.Config{DSN: "sqlite:" + filepath.Join(dir, "nimbus.db")})
	if err != nil {
		return err
	}
	blobs, err := fs.Open(filepath.Join(dir, "registry"))
	if err != nil {
		return err
	}
	s := registry.New(registry.Config{Store: db, Blobs: blobs, Key: testKey, Limits: stressLimits(), Log: log})
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
	dir     string
	cmd     *exec.Cmd
	address atomic.Pointer[string]
}

func (p *process) start() {
	p.t.Helper()
	p.cmd = exec.Command(os.Args[0])
	p.cmd.Env = append(os.Environ(), childVariable+"="+p.dir)
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
	p := &process{t: t, dir: t.TempDir()}
	p.start()
	defer func() { p.kill() }()
	c := newCrowd(nimbus.DefaultOrg)
	until := time.Now().Add(stressFor(t))
	var group sync.WaitGroup
	for n := range pushers {
		group.Go(func() {
			for time.Now().Before(until) {
				cl := &pusher{t: t, url: *p.address.Load(), token: "root"}
				away := false
				err := c.work(cl, n, until, func(err error) bool {
					var op *net.OpError
					away = errors.As(err, &op) || strings.Contains(err.Error(), "EOF")
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
	for time.Now().Before(until) {
		time.Sleep(100*time.Millisecond + time.Duration(rand.IntN(400))*time.Millisecond)
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
	deadline := time.Now().Add(30 * time.Second)
	for left := -1; left != 0; {
		files, err := filepath.Glob(filepath.Join(p.dir, "registry", "registry", "*", "*"))
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("%d contents are left of nothing, %v", len(files), err)
		}
		if left = len(files); left > 0 {
			time.Sleep(50 * time.Millisecond)
		}
	}
	p.kill()
	db, err := store.Open(t.Context(), store.Config{DSN: "sqlite:" + filepath.Join(p.dir, "nimbus.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if u, err := db.RegistryUsage(t.Context(), nimbus.DefaultOrgID); err != nil || u.Bytes != 0 {
		t.Errorf("%d bytes are counted of nothing, %v", u.Bytes, err)
	}
	p.start()
}
