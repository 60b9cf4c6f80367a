package host_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/agent"
	"github.com/nimbus-ci/nimbus/internal/audit"
	"github.com/nimbus-ci/nimbus/internal/blob/fs"
	"github.com/nimbus-ci/nimbus/internal/bus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/firecracker/firecrackertest"
	"github.com/nimbus-ci/nimbus/internal/forge"
	"github.com/nimbus-ci/nimbus/internal/forge/githubtest"
	"github.com/nimbus-ci/nimbus/internal/host"
	"github.com/nimbus-ci/nimbus/internal/httpapi"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/logs/segment"
	"github.com/nimbus-ci/nimbus/internal/programs"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/shells"
	"github.com/nimbus-ci/nimbus/internal/store"
	"github.com/nimbus-ci/nimbus/internal/testenv"
	"github.com/nimbus-ci/nimbus/internal/traces"
	"github.com/nimbus-ci/nimbus/web"
)

// plane is a real control plane on loopback, without the command line.
type plane struct {
	url       string
	scheduler *scheduler.Service
	logs      *segment.Store
	identity  *identity.Service
	db        *store.Store
	admin     string
	github    *githubtest.Server // nil without
	traces    *traces.Service
}

// unheard is told what nobody counts.
type unheard struct{}

func (unheard) TelemetryStored(nimbus.Signal, int, int) {}
func (unheard) TelemetryRefused(int)                    {}

// startPlane starts a control plane; with GitHub its double is connected.
func startPlane(t *testing.T, github ...githubtest.Config) *plane {
	t.Helper()
	dir, log, b := t.TempDir(), logger(t), bus.NewInProcess()
	db, err := store.Open(t.Context(), store.Config{DSN: "sqlite:" + filepath.Join(dir, "nimbus.db")})
	must(t, err)
	lines, err := segment.Open(filepath.Join(dir, "logs"), 1<<30)
	must(t, err)
	blobs, err := fs.Open(filepath.Join(dir, "blobs"))
	must(t, err)
	id := identity.New(db, nimbus.SystemClock{})
	p := &plane{logs: lines, identity: id, db: db}
	var app scheduler.Forge
	var webhook http.Handler
	if len(github) > 0 {
		p.github, err = githubtest.Start(github[0])
		must(t, err)
		t.Cleanup(p.github.Close)
		app, err = forge.NewApp(forge.AppConfig{AppID: p.github.AppID(), PrivateKey: p.github.PrivateKey(), BaseURL: p.github.URL()})
		must(t, err)
		webhook = forge.NewWebhook(forge.WebhookConfig{
			Secrets: func() [][]byte { return [][]byte{p.github.WebhookSecret()} }, Log: log,
			Process: func(ctx context.Context, d nimbus.Delivery, ev *nimbus.ForgeEvent) (nimbus.DeliveryOutcome, error) {
				return p.scheduler.ProcessDelivery(ctx, d, ev)
			},
		})
	}
	p.scheduler = scheduler.New(scheduler.Config{AllowTrustedLocal: true}, db, b, app, id, log)
	p.admin, _, err = id.IssueAdmin(t.Context())
	must(t, err)
	keyring, err := identity.OpenKeyring(filepath.Join(dir, "master.key"))
	must(t, err)
	p.traces = traces.New(traces.Config{Store: db, Jobs: p.scheduler, Observer: unheard{}, Log: log})
	terminals := shells.New(shells.Config{Store: db, Sealer: keyring, Logs: lines, Bus: b, Log: log})
	server := httpapi.NewServer(httpapi.New(httpapi.Config{
		Jobs: p.scheduler, Queue: p.scheduler, Reruns: p.scheduler, Hosts: p.scheduler, Shells: terminals, Identity: id, Logs: lines, Blobs: blobs, Bus: b, Pages: web.Pages(), Checks: []httpapi.Check{{Name: "database", Needed: true, Do: db.Ping}}, Webhook: webhook, Tally: audit.NewTally(db, log), Log: log,
		Telemetry: p.traces,
	}), log)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	p.url = "http://" + l.Addr().String()
	go func() { _ = server.Serve(l) }()
	if p.github != nil {
		p.github.SetWebhook(p.url + "/webhooks/github")
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.scheduler.Run(ctx, func() {}) }()
	t.Cleanup(func() {
		server.Close()
		stop()
		<-ended
		lines.Close()
		db.Close()
	})
	return p
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// logger writes to the test's log while the test runs.
func logger(t *testing.T) *slog.Logger {
	if !testing.Verbose() {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// startHost starts an agent of dir; stop ends it as SIGTERM does.
func startHost(t *testing.T, p *plane, dir string, programs ...programs.Finder) (stop func()) {
	t.Helper()
	return startConfigured(t, p, host.Config{Data: dir, Programs: append(programs, programsInPath)[0], Log: logger(t)})
}

// startConfigured starts an agent that is told where its control plane is.
func startConfigured(t *testing.T, p *plane, cfg host.Config) (stop func()) {
	t.Helper()
	join, _, err := p.identity.IssueJoin(t.Context(), identity.Root(), time.Minute)
	must(t, err)
	cfg.Server, cfg.Name, cfg.Version, cfg.JoinToken, cfg.CPUs, cfg.MemoryMiB = p.url, "test", "test", join, 4, 8192
	a, err := host.New(t.Context(), cfg)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func(a *agent.Agent) { ended <- a.Run(ctx, func() { close(ready) }) }(a)
	select {
	case <-ready:
	case err := <-ended:
		t.Fatalf("the agent ended: %v", err)
	case <-time.After(time.Minute):
		t.Fatal("the agent is not ready")
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("the agent ended with %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("the agent does not stop")
		}
	}
	t.Cleanup(stop)
	return stop
}

func (p *plane) submit(t *testing.T, script string, edit ...func(*scheduler.Submission)) nimbus.Job {
	t.Helper()
	s := scheduler.Submission{
		Class: nimbus.Class{Executor: nimbus.ExecutorLocal},
		Spec:  nimbus.Spec{Command: []string{"sh", "-c", script}},
	}
	for _, e := range edit {
		e(&s)
	}
	j, err := p.scheduler.Submit(t.Context(), nimbus.Principal{Kind: nimbus.PrincipalAdmin, OrgID: nimbus.DefaultOrgID, Subject: "admin"}, s)
	must(t, err)
	return j
}

func (p *plane) submitCommand(t *testing.T, command ...string) nimbus.Job {
	t.Helper()
	return p.submit(t, "", func(s *scheduler.Submission) { s.Spec.Command = command })
}

// await waits until a job is as wanted. Patience is with a job that stands
// still: how long a million lines take is the machine's affair.
func (p *plane) await(t *testing.T, id string, what string, ok func(nimbus.Job) bool) nimbus.Job {
	t.Helper()
	return p.awaitFor(t, 60*time.Second, id, what, ok)
}

func (p *plane) awaitFor(t *testing.T, patience time.Duration, id string, what string, ok func(nimbus.Job) bool) nimbus.Job {
	t.Helper()
	var j nimbus.Job
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		before := j
		var err error
		j, err = p.scheduler.Job(t.Context(), nimbus.DefaultOrgID, id)
		must(t, err)
		if ok(j) {
			return j
		}
		if j.State != before.State || j.LogLines != before.LogLines || j.Timeline != before.Timeline {
			deadline = time.Now().Add(patience)
		}
	}
	t.Fatalf("the job never became %s: %+v", what, j)
	return j
}

func over(j nimbus.Job) bool {
	return j.State == nimbus.StateFinished && j.LogComplete && !j.Timeline.DestroyedAt.IsZero()
}

func (p *plane) log(t *testing.T, j nimbus.Job) string {
	t.Helper()
	lines, err := p.logs.Read(t.Context(), nimbus.LogKey{OrgID: j.OrgID, AttemptID: j.AttemptID}, 1, 1_000_000)
	must(t, err)
	var b strings.Builder
	for _, l := range lines {
		fmt.Fprintln(&b, l.Text)
	}
	return b.String()
}

// programsInPath finds what TestMain built.
var programsInPath programs.Finder

func TestMain(m *testing.M) {
	// The programs are looked for in PATH.
	dir, err := os.MkdirTemp("", "host-test-")
	if err != nil {
		panic(err)
	}
	build := exec.Command("go", "build", "-o", dir+"/", "../../cmd/nimbus-shim", "../../cmd/nimbus-guest", "../../cmd/nimbus-runner")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("%v\n%s", err, out))
	}
	os.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	code := m.Run()
	os.RemoveAll(dir)
	firecrackertest.Clean()
	os.Exit(code)
}

// empty tells that nothing of any attempt is left in an agent's folder.
func empty(t *testing.T, dir string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		entries, err := os.ReadDir(filepath.Join(dir, "attempts"))
		must(t, err)
		if len(entries) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left in the agent's folder: %v", entries)
		}
	}
}

// doorOf is where the running agent of a folder has its door to the cache.
func doorOf(t *testing.T, dir string) (address string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		port, err := os.ReadFile(filepath.Join(dir, "cache-port"))
		if err == nil {
			address = net.JoinHostPort("127.0.0.1", strings.TrimSpace(string(port)))
			var answer *http.Response
			if answer, err = http.Get("http://" + address + "/"); err == nil {
				answer.Body.Close()
				return address
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("the door to the cache does not answer: %v", err)
		}
	}
}

func TestAJobThroughAllRooms(t *testing.T) {
	testenv.Require(t, "root")
	p, dir := startPlane(t), t.TempDir()
	startHost(t, p, dir)
	j := p.submit(t, "echo '::nimbus-step::Greet'; echo hello $NAME; printf 'no end'; exit 3", func(s *scheduler.Submission) {
		s.Spec.Env = map[string]string{"NAME": "nimbus"}
	})
	j = p.await(t, j.ID, "finished", over)
	if j.Result != nimbus.ResultFailure || j.ExitCode == nil || *j.ExitCode != 3 {
		t.Errorf("ended with %s, exit code %v", j.Result, j.ExitCode)
	}
	if got := p.log(t, j); got != "Greet\nhello nimbus\nno end\n" {
		t.Errorf("log %q", got)
	}
	empty(t, dir)

	// The same over HTTP, as a reader sees it.
	body := p.get(t, "/api/v1/jobs/"+j.ID+"/log/stream")
	for _, want := range []string{"event: attempt\n", `"text":"hello nimbus"`, "event: complete\ndata: {\"complete\":true"} {
		if !strings.Contains(body, want) {
			t.Errorf("the stream has no %q:\n%s", want, body)
		}
	}
}

func (p *plane) get(t *testing.T, path string, headers ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+path, nil)
	must(t, err)
	r.Header.Set("Authorization", "Bearer "+p.admin)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	answer, err := http.DefaultClient.Do(r)
	must(t, err)
	defer answer.Body.Close()
	var body bytes.Buffer
	if _, err := io.Copy(&body, answer.Body); err != nil {
		t.Fatal(err)
	}
	return body.String()
}

func TestCancel(t *testing.T) {
	testenv.Require(t, "root")
	p, dir := startPlane(t), t.TempDir()
	startHost(t, p, dir)
	j := p.submit(t, "trap 'echo ending; exit 0' TERM; echo ready; sleep 1000 & wait")
	p.await(t, j.ID, "running", func(j nimbus.Job) bool { return j.LogLines > 0 })
	started := time.Now()
	_, err := p.scheduler.Cancel(t.Context(), nimbus.Principal{Kind: nimbus.PrincipalAdmin, Subject: "admin"}, nimbus.DefaultOrgID, j.ID)
	must(t, err)
	j = p.await(t, j.ID, "finished", over)
	if j.Result != nimbus.ResultCancelled {
		t.Errorf("ended with %s", j.Result)
	}
	t.Logf("cancelled within %s", time.Since(started))
	if got := p.log(t, j); !strings.Contains(got, "ending\n") {
		t.Errorf("it was not asked to end: %q", got)
	}
	empty(t, dir)
}

func TestTimeout(t *testing.T) {
	testenv.Require(t, "root")
	p, dir := startPlane(t), t.TempDir()
	startHost(t, p, dir)
	j := p.submit(t, "echo on and on; sleep 1000", func(s *scheduler.Submission) { s.Spec.Timeout = time.Second })
	j = p.await(t, j.ID, "finished", over)
	if j.Result != nimbus.ResultTimedOut {
		t.Errorf("ended with %s: %+v", j.Result, j.Reason)
	}
	empty(t, dir)
}

// TestTimeoutOfBomb: a job that forks without end until its time is over is told
// what it met.
func TestTimeoutOfBomb(t *testing.T) {
	t.Parallel() // it mostly waits
	testenv.Require(t, "root")
	p, dir := startPlane(t), t.TempDir()
	startHost(t, p, dir)
	const bomb = "(while :; do read x < fifo & done) & exec sleep 1000"
	j := p.submit(t, "mkfifo fifo; "+bomb, func(s *scheduler.Submission) { s.Spec.Timeout = 40 * time.Second }) // a busy machine takes half of it for 4096 forks
	j = p.await(t, j.ID, "finished, with its log", func(j nimbus.Job) bool { return over(j) && j.LogComplete })
	const limit, words = "ran longer than it may: its limit is 40s, --timeout sets another", "it started more processes than its sandbox can have at once"
	if j.Result != nimbus.ResultTimedOut || j.Reason.Code != nimbus.ReasonTimeout || j.Reason.Message != limit+"; "+words {
		t.Errorf("ended with %s: %+v", j.Result, j.Reason)
	}
	if got := p.log(t, j); !strings.HasSuffix(got, "nimbus: "+limit+"\nnimbus: "+words+"\n") {
		t.Errorf("its log is %q", got)
	}
	empty(t, dir)
}

func TestUnknownImage(t *testing.T) {
	testenv.Require(t, "root")
	p, dir := startPlane(t), t.TempDir()
	startHost(t, p, dir)
	j := p.submit(t, "true", func(s *scheduler.Submission) { s.Class.Image = "no-such-image" })
	j = p.await(t, j.ID, "finished", over)
	if j.Result != nimbus.ResultFailure || j.Reason.Code != nimbus.ReasonImageNotFound || !strings.Contains(p.log(t, j), "no-such-image") {
		t.Errorf("ended with %s, %+v, log %q", j.Result, j.Reason, p.log(t, j))
	}
	empty(t, dir)
}

// TestTheNextAgentAdopts stops the agent, as SIGTERM does, while a job writes
// numbered lines: the next one brings every line in, once and in order.
func TestTheNextAgentAdopts(t *testing.T) {
	testenv.Require(t, "root")
	p, dir := startPlane(t), t.TempDir()
	stop := startHost(t, p, dir)
	door := doorOf(t, dir)
	j := p.submit(t, "i=1; while [ $i -le 400 ]; do echo line $i; i=$((i+1)); sleep 0.01; done; exit 7")
	for _, lines := range []int64{20, 120, 220} {
		p.await(t, j.ID, "running", func(j nimbus.Job) bool { return j.LogLines > lines })
		stop()
		stop = startHost(t, p, dir)
		if moved := doorOf(t, dir); moved != door {
			t.Errorf("the job has the cache at %s, and the next agent's is at %s", door, moved)
		}
	}
	j = p.await(t, j.ID, "finished", over)
	if j.Result != nimbus.ResultFailure || j.ExitCode == nil || *j.ExitCode != 7 || j.AttemptCount != 1 {
		t.Errorf("ended with %s, exit code %v, %d attempts, %+v", j.Result, j.ExitCode, j.AttemptCount, j.Reason)
	}
	var want strings.Builder
	for i := 1; i <= 400; i++ {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	if got := p.log(t, j); got != want.String() {
		t.Errorf("the log has %d bytes, want %d:\n%.2000s", len(got), want.Len(), got)
	}
	empty(t, dir)
}
