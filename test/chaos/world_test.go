package chaos

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/testenv"
	"github.com/nimbus-ci/nimbus/test/faultproxy"
	"github.com/nimbus-ci/nimbus/test/simhost"
)

const (
	replicas = 3
	machines = 20
	slots    = 3 // of a machine
)

var (
	jobCount = flag.Int("chaos.jobs", 300, "how many jobs")
	seedFlag = flag.Uint64("chaos.seed", 0, "the seed of a run to be done again; 0 for a new one")
)

// bin is the built program.
var bin string

func TestMain(m *testing.M) {
	flag.Parse()
	dir, err := os.MkdirTemp("", "nimbus-chaos-bin-")
	if err != nil {
		panic(err)
	}
	bin = filepath.Join(dir, "nimbus")
	build := exec.Command("go", "build", "-trimpath", "-o", bin, "./cmd/nimbus")
	build.Dir = "../.."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("build the program: %v\n%s", err, out))
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// world is everything that can be broken.
type world struct {
	t       *testing.T
	db      *database
	redis   *testenv.RedisServer
	toDB    *faultproxy.Proxy
	toRedis *faultproxy.Proxy
	front   *faultproxy.Proxy // the load balancer
	github  gitHub

	replicas []*replica
	machines []*simhost.Machine
	records  simhost.Records
	strays   strays
	client   *client.Client // through the load balancer

	restarting sync.Mutex // one restart at a time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, db: startDatabase(t), redis: testenv.Redis(t), github: startGitHub(t)}
	w.toDB = w.proxy(w.db.backend())
	w.toRedis = w.proxy(faultproxy.Backend{Network: "unix", Address: strings.TrimPrefix(w.redis.URL, "unix://")})
	databaseURL, err := through(w.toDB.Addr())
	if err != nil {
		t.Fatal(err)
	}
	data := t.TempDir()
	flags := w.github.flags(data)
	var backends []faultproxy.Backend
	for i := range replicas {
		r := &replica{t: t, data: filepath.Join(data, fmt.Sprint("replica", i)), key: filepath.Join(data, "master.key"),
			addr: testenv.FreeAddress(t), database: databaseURL, redis: "redis://" + w.toRedis.Addr(), flags: flags}
		w.replicas = append(w.replicas, r)
		backends = append(backends, faultproxy.Backend{Network: "tcp", Address: r.addr})
		r.start()
		t.Cleanup(r.kill)
		r.awaitReady() // the first makes the key and the administrator's token
	}
	w.front = w.proxy(backends...)
	w.connect()
	return w
}

func (w *world) proxy(backends ...faultproxy.Backend) *faultproxy.Proxy {
	w.t.Helper()
	p, err := faultproxy.Listen(backends...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(p.Close)
	return p
}

// connect makes the client and the machines while all is well.
func (w *world) connect() {
	w.t.Helper()
	token, err := os.ReadFile(filepath.Join(w.replicas[0].data, "admin.token"))
	if err != nil {
		w.t.Fatal(err)
	}
	url := "http://" + w.front.Addr()
	w.github.SetWebhook(url + "/webhooks/github")
	if w.client, err = client.New(client.Config{Server: url, Token: strings.TrimSpace(string(token))}); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(w.client.Close)
	for i := range machines {
		join, _, err := w.client.CreateJoinToken(w.t.Context(), 0)
		if err != nil {
			w.t.Fatal(err)
		}
		h, err := simhost.Join(w.t.Context(), simhost.Config{Server: url, JoinToken: join, Name: fmt.Sprint("machine", i), Slots: slots})
		if err != nil {
			w.t.Fatal(err)
		}
		m := simhost.NewMachine(h, &w.records)
		m.GitHub = w.github
		w.machines = append(w.machines, m)
		w.t.Cleanup(m.Close)
		m.Boot(context.WithoutCancel(w.t.Context()))
	}
}

// replica is one `nimbus server`. It keeps its address over all its starts.
type replica struct {
	t               *testing.T
	data, key, addr string
	database, redis string
	flags           []string

	mu    sync.Mutex
	cmd   *exec.Cmd     // nil while it is killed
	ended chan struct{} // closed once its process has
}

func (r *replica) start() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cmd == nil {
		r.startLocked()
	}
}

func (r *replica) startLocked() {
	err := os.MkdirAll(r.data, 0o700)
	if err != nil {
		r.t.Error(err)
		return
	}
	log, err := os.OpenFile(filepath.Join(r.data, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		r.t.Error(err)
		return
	}
	defer log.Close()
	cmd := exec.Command(bin, append([]string{"server", "--listen", r.addr, "--master-key-file", r.key}, r.flags...)...)
	cmd.Env = append(os.Environ(), "NIMBUS_DATA="+r.data, "NIMBUS_DATABASE="+r.database, "NIMBUS_REDIS="+r.redis)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		r.t.Error(err)
		return
	}
	ended := make(chan struct{})
	r.cmd, r.ended = cmd, ended
	go func() {
		defer close(ended)
		_ = cmd.Wait() // how it ended is in its log
	}()
}

// kill is kill -9.
func (r *replica) kill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cmd == nil {
		return
	}
	_ = r.cmd.Process.Kill() // it may have ended by itself
	<-r.ended
	r.cmd = nil
}

// revive starts it again if it ended by itself, as a supervisor does: a start
// fails while there is no database.
func (r *replica) revive() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cmd == nil {
		return
	}
	select {
	case <-r.ended:
		r.startLocked()
	default:
	}
}

// pause stops its process; go on with false.
func (r *replica) pause(yes bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cmd == nil {
		return
	}
	signal := syscall.SIGCONT
	if yes {
		signal = syscall.SIGSTOP
	}
	_ = r.cmd.Process.Signal(signal) // it may have ended by itself
}

func (r *replica) ready() bool {
	answer, err := (&http.Client{Timeout: 3 * time.Second}).Get("http://" + r.addr + "/readyz")
	if err != nil {
		return false
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, answer.Body) // the status is all that counts
	return answer.StatusCode == http.StatusOK
}

func (r *replica) awaitReady() {
	r.t.Helper()
	for deadline := time.Now().Add(startTimeout); !r.ready(); <-time.After(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("a replica does not answer:\n%s", r.tail())
		}
	}
}

// tail is the end of its log.
func (r *replica) tail() string {
	const most = 8 << 10
	text, err := os.ReadFile(filepath.Join(r.data, "log"))
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-most):])
}
