package server

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nimbus-ci/nimbus/internal/httpapi"
	"github.com/nimbus-ci/nimbus/internal/ratelimit"
)

// update rewrites the table of metrics: go test ./internal/server -update.
var update = flag.Bool("update", false, "write the table of metrics in docs/operations.md anew")

// logged is a log that can be read while it is written.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// running is a server that serves until its test ends.
type running struct {
	*Server
	log   *logged
	stop  context.CancelFunc
	ended chan error
}

func serveTest(t *testing.T, ops Operations, app *GitHub) *running {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &running{log: &logged{}, ended: make(chan error, 1)}
	log := slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if r.Server, err = Open(t.Context(), Config{Data: t.TempDir(), Listener: l, Log: log, Operations: ops, GitHub: app}); err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, r.stop = context.WithCancel(context.Background())
	up := make(chan struct{})
	go func() { r.ended <- r.Run(ctx, func() { close(up) }) }()
	t.Cleanup(func() {
		r.stop()
		if err := <-r.ended; err != nil {
			t.Error(err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	<-up
	return r
}

// get asks for a path, as an administrator unless token is "".
func (r *running) get(t *testing.T, path, token string) (status int, body string, header http.Header) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.URL()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	return send(t, request)
}

func send(t *testing.T, request *http.Request) (status int, body string, header http.Header) {
	t.Helper()
	got, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Body.Close()
	raw, err := io.ReadAll(got.Body)
	if err != nil {
		t.Fatal(err)
	}
	return got.StatusCode, string(raw), got.Header
}

// TestReadyEndsBeforeTheServer: a server that stops says so while it still
// answers, for as long as it was told to.
func TestReadyEndsBeforeTheServer(t *testing.T) {
	t.Parallel()
	s := serveTest(t, Operations{Drain: time.Minute}, nil)
	if status, body, _ := s.get(t, "/readyz", ""); status != http.StatusOK || body != "ready\n" {
		t.Fatalf("a server that runs is %d %s", status, body)
	}
	s.stop()
	deadline := time.Now().Add(30 * time.Second)
	for {
		status, body, _ := s.get(t, "/readyz", s.AdminToken())
		if status == http.StatusServiceUnavailable {
			if !strings.Contains(body, `"it is stopping"`) || !strings.Contains(body, `"name":"migrations","needed":true,"ok":true`) {
				t.Errorf("it says %s", body)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("it is still %d %s", status, body)
		}
	}
	if status, _, _ := s.get(t, "/api/v1/me", s.AdminToken()); status != http.StatusOK {
		t.Errorf("while it drains a call is answered %d", status)
	}
	s.cfg.Listener.Close() // nobody waits the rest of the minute
	if err := <-s.ended; err == nil {
		t.Error("a listener that broke was no error")
	}
	s.ended <- nil // for the cleanup
}

// TestLogsNameTheRequest: whoever writes, by the id that the answer carries.
func TestLogsNameTheRequest(t *testing.T) {
	t.Parallel()
	s := serveTest(t, Operations{}, nil)
	_, _, header := s.get(t, "/api/v1/me", s.AdminToken())
	id := header.Get("Nimbus-Request")
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(s.log.String(), "request="+id); time.Sleep(5 * time.Millisecond) {
		if id == "" || time.Now().After(deadline) {
			t.Fatalf("request %q is not in the log: %s", id, s.log)
		}
	}
	ctx := context.Background()
	s.cfg.Log.With("room", "x").WithGroup("g").InfoContext(ctx, "of no request")
	if line := lastLine(s.log.String()); !strings.Contains(line, "of no request") || strings.Contains(line, "request=") {
		t.Errorf("logged %s", line)
	}
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

// TestDeliveriesOfOneInstallation: too many are refused with the time to come
// again and without a trace in the ledger, so that they can be delivered later;
// another installation's go on.
func TestDeliveriesOfOneInstallation(t *testing.T) {
	t.Parallel()
	app := testApp(t, 1)
	few := ratelimit.Rate{PerSecond: ratelimit.MinPerSecond, Burst: 2}
	s := serveTest(t, Operations{Limits: httpapi.Limits{Webhook: few}}, app)
	deliver := func(id string, installation int) (int, string, http.Header) {
		body := fmt.Sprintf(`{"action":"created","installation":{"id":%d}}`, installation)
		mac := hmac.New(sha256.New, app.WebhookSecrets[0])
		mac.Write([]byte(body))
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL()+"/webhooks/github", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
		r.Header.Set("X-Github-Delivery", id)
		r.Header.Set("X-Github-Event", "push")
		return send(t, r)
	}
	for i := range few.Burst {
		if status, body, _ := deliver(fmt.Sprint("d", i), 7); status != http.StatusAccepted {
			t.Fatalf("delivery %d: %d %s", i, status, body)
		}
	}
	status, body, header := deliver("late", 7)
	if status != http.StatusTooManyRequests || header.Get("Retry-After") == "" || !strings.Contains(body, `"code":"rate_limited"`) {
		t.Errorf("one too many: %d %s %v", status, body, header)
	}
	// By another installation's, the same delivery finds nothing in the ledger.
	if status, body, _ := deliver("late", 8); status != http.StatusAccepted || !strings.Contains(body, "ignored") {
		t.Errorf("delivered again: %d %s", status, body)
	}
	if _, body, _ := s.get(t, "/metrics", s.AdminToken()); !strings.Contains(body, `nimbus_rate_limited_total{limit="webhook"} 1`) {
		t.Errorf("the refusal is not counted: %s", body)
	}
}

const (
	operationsPage = "../../docs/operations.md"
	tableBegins    = "<!-- metrics: written by go test ./internal/server -update -->\n"
	tableEnds      = "<!-- end of metrics -->"
)

// described reads prometheus.Desc, which tells what it has by its String alone.
var described = regexp.MustCompile(`fqName: "([^"]*)", help: "([^"]*)", unit: "[^"]*", constLabels: {}, variableLabels: {([^}]*)}`)

// TestTheMetricsPageIsTrue: the table in the documentation is that of the
// registry of a server.
func TestTheMetricsPageIsTrue(t *testing.T) {
	t.Parallel()
	s := serveTest(t, Operations{OTLP: "http://127.0.0.1:9"}, nil)
	registry, ok := s.metrics.Gatherer().(prometheus.Collector)
	if !ok {
		t.Fatal("the registry can't be described")
	}
	descs := make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		registry.Describe(descs)
	}()
	rows := map[string]string{}
	for d := range descs {
		if !strings.Contains(d.String(), `"nimbus_`) {
			continue // Go's and the process's own
		}
		m := described.FindStringSubmatch(d.String())
		if m == nil {
			t.Errorf("not understood: %s", d)
			continue
		}
		rows[m[1]] = fmt.Sprintf("| `%s` | %s | %s |\n", m[1], strings.ReplaceAll(m[3], ",", ", "), m[2])
	}
	var names []string
	for name := range rows {
		names = append(names, name)
	}
	slices.Sort(names)
	table := "| metric | labels | what it tells |\n|---|---|---|\n"
	for _, name := range names {
		table += rows[name]
	}
	page, err := os.ReadFile(operationsPage)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(page), tableBegins)
	told, after, ends := strings.Cut(rest, tableEnds)
	if !found || !ends {
		t.Fatalf("%s has no table of metrics", operationsPage)
	}
	if *update {
		if err := os.WriteFile(operationsPage, []byte(before+tableBegins+table+tableEnds+after), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(table, told); diff != "" {
		t.Errorf("the page differs from the metrics; go test ./internal/server -update writes it anew:\n%s", diff)
	}
	for _, name := range regexp.MustCompile(`nimbus_[a-z_]+`).FindAllString(before+after, -1) {
		base := name
		for _, suffix := range []string{"_bucket", "_count", "_sum"} {
			base = strings.TrimSuffix(base, suffix)
		}
		if rows[base] == "" {
			t.Errorf("the page tells of %s, which is not there", name)
		}
	}
}
