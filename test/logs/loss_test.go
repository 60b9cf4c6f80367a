package logs

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/logs/clickhouse"
	"github.com/nimbus-ci/nimbus/internal/testenv"
	"github.com/nimbus-ci/nimbus/test/faultproxy"
)

var (
	roundCount = flag.Int("loss.rounds", 20, "how often something is killed or cut")
	jobCount   = flag.Int("loss.jobs", 50, "how many jobs write")
	lineCount  = flag.Int("loss.lines", 400, "how many lines each of them writes in 20 rounds")
	seedFlag   = flag.Uint64("loss.seed", 0, "the seed of a run to be done again; 0 for a new one")
)

// bin is where the programs are.
var bin string

func TestMain(m *testing.M) {
	flag.Parse()
	dir, err := os.MkdirTemp("", "nimbus-logs-bin-")
	if err != nil {
		panic(err)
	}
	bin = dir
	build := exec.Command("go", "build", "-trimpath", "-o", dir+"/", "./cmd/nimbus", "./cmd/nimbus-shim", "./cmd/nimbus-guest")
	build.Dir = "../.."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("build the programs: %v\n%s", err, out))
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// program is a process that is killed and started again with the same arguments.
type program struct {
	t    *testing.T
	args []string
	env  []string
	log  string

	cmd   *exec.Cmd
	ended chan struct{}
}

func (p *program) start() {
	p.t.Helper()
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(bin, "nimbus"), p.args...)
	cmd.Env = append(os.Environ(), p.env...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	ended := make(chan struct{})
	p.cmd, p.ended = cmd, ended
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(ended)
	}()
}

// kill is kill -9.
func (p *program) kill() {
	_ = p.cmd.Process.Kill() // it may have ended by itself
	<-p.ended
}

// stop asks it to end, at the end of the test.
func (p *program) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(time.Minute):
		p.kill()
	}
	if p.t.Failed() {
		said, _ := os.ReadFile(p.log)
		p.t.Logf("%s, its last words:\n%s", p.args[0], said[max(0, len(said)-3000):])
	}
}

// world is everything on the way of a line.
type world struct {
	t             *testing.T
	data          string
	engine        *testenv.ClickHouseServer
	server, agent *program
	front, store  *faultproxy.Proxy // before the server, and before ClickHouse
	client        *client.Client
	token         string
	unbegun       map[nimbus.LogKey]bool // attempts that ended before they ran
}

func newWorld(t *testing.T) *world {
	t.Helper()
	testenv.Require(t, "root")
	w := &world{t: t, engine: testenv.ClickHouse(t), unbegun: map[nimbus.LogKey]bool{}}
	data := t.TempDir()
	w.data = data
	addr := testenv.FreeAddress(t)
	w.store = w.proxy(w.engine.Address)
	w.front = w.proxy(addr)
	url := "http://" + w.front.Addr()
	if out, err := exec.Command(filepath.Join(bin, "nimbus"), "logs", "migrate", "--clickhouse", w.engine.URL+"/logs").CombinedOutput(); err != nil {
		t.Fatalf("migrate: %v\n%s", err, out)
	}
	w.server = &program{t: t, log: filepath.Join(data, "server.log"), env: []string{"NIMBUS_DATA=" + filepath.Join(data, "server")},
		args: []string{"up", "--no-agent", "--listen", addr, "--clickhouse", "http://" + w.store.Addr() + "/logs"}}
	w.server.start()
	t.Cleanup(w.server.stop)
	w.await("the server answers", func() bool {
		raw, err := os.ReadFile(filepath.Join(data, "server", "admin.token"))
		w.token = strings.TrimSpace(string(raw))
		return err == nil && w.token != "" && w.get("/readyz") != ""
	})
	var err error
	if w.client, err = client.New(client.Config{Server: url, Token: w.token}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.client.Close)
	join, _, err := w.client.CreateJoinToken(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(data, "join.token")
	if err := os.WriteFile(file, []byte(join), 0o600); err != nil {
		t.Fatal(err)
	}
	w.agent = &program{t: t, log: filepath.Join(data, "agent.log"), env: []string{"NIMBUS_DATA=" + filepath.Join(data, "agent"), "PATH=" + bin + ":" + os.Getenv("PATH")},
		args: []string{"agent", "--server", url, "--executors", "local", "--cpus", fmt.Sprint(*jobCount * 2), "--memory", fmt.Sprint(*jobCount * 8192), "--name", "host", "--join-token-file", file}}
	w.agent.start()
	t.Cleanup(w.agent.stop)
	return w
}

func (w *world) proxy(address string) *faultproxy.Proxy {
	w.t.Helper()
	p, err := faultproxy.Listen(faultproxy.Backend{Network: "tcp", Address: address})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(p.Close)
	return p
}

// get asks the server for a page, "" while it does not answer.
func (w *world) get(path string) string {
	ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.front.Addr()+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+w.token)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return ""
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		return ""
	}
	return string(body)
}

func (w *world) await(what string, is func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(5 * time.Minute)
	for !is() {
		if time.Now().After(deadline) {
			w.t.Fatalf("waited in vain until %s", what)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// script writes numbered lines for about as long as things are broken.
func script(lines int) []string {
	return []string{"sh", "-c", fmt.Sprintf(`i=1; while [ $i -le %d ]; do echo "line $i"; [ $((i %% 10)) != 0 ] || sleep 0.4; i=$((i+1)); done`, lines)}
}

// breakSomething kills or cuts one thing, and mends it.
func (w *world) breakSomething(random *rand.Rand) string {
	pause := func() { time.Sleep(time.Duration(random.IntN(400)) * time.Millisecond) }
	switch random.IntN(7) {
	case 0:
		w.server.kill()
		pause()
		w.server.start()
		return "the server was killed"
	case 1:
		w.agent.kill()
		pause()
		w.agent.start()
		return "the agent was killed"
	case 2:
		w.engine.Kill()
		pause()
		if err := w.engine.Start(); err != nil {
			w.t.Fatal(err)
		}
		return "ClickHouse was killed"
	case 3:
		w.front.Cut()
		return "the server was cut off"
	case 4:
		w.store.Cut()
		return "ClickHouse was cut off"
	case 5:
		w.store.Refuse(true)
		pause()
		w.store.Refuse(false)
		return "ClickHouse was away"
	default:
		d := w.store.Detach()
		d.Cut()
		pause()
		d.Arrive()
		return "what was sent to ClickHouse came late"
	}
}

// TestEveryLineOnce is the promise of logs: whatever is killed or cut, every line
// that a job wrote is stored once, in order, here and in ClickHouse.
func TestEveryLineOnce(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-loss.seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(t)
	lines := max(*lineCount, *lineCount**roundCount/20)
	var jobs []nimbus.Job
	for i := range *jobCount {
		j, err := w.client.Submit(t.Context(), client.Submission{Name: fmt.Sprint("writer ", i), Spec: nimbus.Spec{Command: script(lines)}})
		if err != nil {
			t.Fatal(err)
		}
		jobs = append(jobs, j)
	}
	w.await("the first job runs", func() bool {
		j, err := w.client.Job(t.Context(), jobs[0].ID)
		return err == nil && j.State == nimbus.StateRunning
	})
	for range *roundCount {
		time.Sleep(time.Duration(200+random.IntN(800)) * time.Millisecond)
		t.Log(w.breakSomething(random))
	}
	total := w.checkStore(jobs, lines)
	w.await("all is copied", func() bool { return strings.Contains(w.get("/metrics"), "\nnimbus_log_copy_lag_bytes 0\n") })
	w.checkClickHouse(jobs, total)
	// What an agent that ends leaves is taken down by shims, in a folder that goes.
	w.await("no sandbox is left", func() bool {
		left, err := os.ReadDir(filepath.Join(w.data, "agent", "agent", "attempts"))
		return err == nil && len(left) == 0
	})
}

// checkStore waits until all jobs are over, and reads their logs as anybody does. It
// returns each attempt's lines.
func (w *world) checkStore(jobs []nimbus.Job, lines int) map[nimbus.LogKey][]nimbus.Line {
	w.t.Helper()
	stored := map[nimbus.LogKey][]nimbus.Line{}
	for _, j := range jobs {
		w.await(j.Name+" is over, with its log", func() bool {
			now, err := w.client.Job(w.t.Context(), j.ID)
			if err != nil {
				return false // the server may be coming up
			}
			j = now
			return j.Result != "" && j.LogComplete
		})
		if j.Result != nimbus.ResultSuccess || w.ranTwice(j) {
			w.t.Errorf("%s: %s after %d attempts", j.Name, j.Result, j.AttemptCount)
			continue
		}
		var all []nimbus.Line
		for l, err := range w.client.Log(w.t.Context(), j.ID, 1) {
			if err != nil {
				w.t.Fatal(err)
			}
			all = append(all, l)
		}
		n := 0
		for i, l := range all {
			if l.Seq != int64(i+1) {
				w.t.Fatalf("%s: line %d is number %d", j.Name, i+1, l.Seq)
			}
			if l.Stream == nimbus.StreamStdout {
				if n++; l.Text != fmt.Sprint("line ", n) {
					w.t.Fatalf("%s: %q is the %d. that it wrote", j.Name, l.Text, n)
				}
			}
		}
		if n != lines || int64(len(all)) != j.LogLines {
			w.t.Errorf("%s: %d lines of %d, %d in all of %d", j.Name, n, lines, len(all), j.LogLines)
		}
		stored[nimbus.LogKey{OrgID: j.OrgID, AttemptID: j.AttemptID}] = all
	}
	return stored
}

// ranTwice tells whether an attempt before the last has run. One that had not begun when
// its agent was killed is made anew, and has written nothing.
func (w *world) ranTwice(j nimbus.Job) bool {
	w.t.Helper()
	if j.AttemptCount == 1 {
		return false
	}
	events, err := w.client.Events(w.t.Context(), j.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	twice := false
	for _, e := range events {
		if e.AttemptID == "" || e.AttemptID == j.AttemptID {
			continue
		}
		w.unbegun[nimbus.LogKey{OrgID: j.OrgID, AttemptID: e.AttemptID}] = true
		twice = twice || e.Kind == string(nimbus.StateRunning)
	}
	return twice
}

// checkClickHouse holds what is there against that.
func (w *world) checkClickHouse(jobs []nimbus.Job, stored map[nimbus.LogKey][]nimbus.Line) {
	w.t.Helper()
	tables, err := clickhouse.Open(clickhouse.Config{URL: w.engine.URL + "/logs"})
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() {
		if err := tables.Close(); err != nil {
			w.t.Error(err)
		}
	}()
	if len(stored) != len(jobs) {
		w.t.Errorf("%d logs of %d jobs are looked for", len(stored), len(jobs))
	}
	for key, want := range stored {
		got, err := tables.Read(w.t.Context(), key, 1, len(want)+100)
		if err != nil {
			w.t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			w.t.Errorf("%s in ClickHouse: %s", key.AttemptID, diff)
		}
		counts, err := tables.Counts(w.t.Context(), key)
		if err != nil || counts.Lines != int64(len(want)) {
			w.t.Errorf("%s: %d lines are counted of %d, %v", key.AttemptID, counts.Lines, len(want), err)
		}
	}
	// The rows themselves, past all that reads a line once.
	rows, all := 0, 0
	for _, want := range stored {
		all += len(want)
	}
	for key := range w.unbegun {
		said, err := tables.Read(w.t.Context(), key, 1, 100)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, l := range said {
			if l.Stream == nimbus.StreamStdout {
				w.t.Errorf("an attempt that had not begun wrote %q", l.Text)
			}
		}
		all += len(said)
	}
	answer, err := http.Post(w.engine.URL, "text/plain", strings.NewReader("SELECT count() FROM logs.log_lines"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer answer.Body.Close()
	if _, err := fmt.Fscan(answer.Body, &rows); err != nil || rows != all {
		w.t.Errorf("ClickHouse has %d rows of %d lines, %v", rows, all, err)
	}
}
