package server

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	goredis "github.com/redis/go-redis/v9"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/httpapi"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/logs/clickhouse"
	"github.com/nimbus-ci/nimbus/internal/ratelimit"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/testenv"
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
	for deadline := time.Now().Add(time.Minute); !strings.Contains(s.log.String(), "request="+id); time.Sleep(5 * time.Millisecond) {
		if id == "" || time.Now().After(deadline) {
			t.Fatalf("request %q is not in the log: %s", id, s.log)
		}
	}
	ctx := context.Background()
	s.cfg.Log.With("room", "x").WithGroup("g").InfoContext(ctx, "of no request")
	if line := lineWith(s.log.String(), "of no request"); line == "" || strings.Contains(line, "request=") {
		t.Errorf("logged %s", line)
	}
}

// lineWith is the line that has some words, between those that others write meanwhile.
func lineWith(s, words string) string {
	for line := range strings.Lines(s) {
		if strings.Contains(line, words) {
			return line
		}
	}
	return ""
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
		return s.deliver(t, app, id, "push", fmt.Appendf(nil, `{"action":"created","installation":{"id":%d}}`, installation))
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

// deliver sends what GitHub would send for an App.
func (r *running) deliver(t *testing.T, app *GitHub, id, event string, body []byte) (int, string, http.Header) {
	t.Helper()
	mac := hmac.New(sha256.New, app.WebhookSecrets[0])
	mac.Write(body)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.URL()+"/webhooks/github", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	request.Header.Set("X-Github-Delivery", id)
	request.Header.Set("X-Github-Event", event)
	return send(t, request)
}

// TestNoDeliveryWaitsForGitHub: GitHub gives a webhook ten seconds, and is
// least fast when there are most of them. It answers nothing here.
func TestNoDeliveryWaitsForGitHub(t *testing.T) {
	t.Parallel()
	deaf := make(chan struct{})
	github := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-deaf:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(github.Close)
	t.Cleanup(func() { close(deaf) })
	app := testApp(t, 1)
	app.URL = github.URL
	s := serveTest(t, Operations{}, app)
	for _, status := range []string{"queued", "in_progress", "completed"} {
		body := fmt.Appendf(nil, `{"action":%[1]q,"installation":{"id":7},"repository":{"name":"hello","owner":{"login":"octo-org"}},
			"workflow_job":{"id":1,"run_id":2,"status":%[1]q,"labels":["nimbus","cpu:4000"],"name":"build"}}`, status)
		got, answer, _ := s.deliver(t, app, status, "workflow_job", body)
		if got != http.StatusAccepted || !strings.Contains(answer, "accepted") {
			t.Errorf("%s: %d %s", status, got, answer)
		}
	}
}

// TestEndsAreTracedAndCounted: what the rooms tell arrives where it is read.
func TestEndsAreTracedAndCounted(t *testing.T) {
	t.Parallel()
	paths := make(chan string, 16)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { paths <- r.URL.Path }))
	defer collector.Close()
	s := serveTest(t, Operations{OTLP: collector.URL}, nil)
	root := nimbus.Principal{Kind: nimbus.PrincipalAdmin, OrgID: nimbus.DefaultOrgID, Subject: "admin"}
	j, err := s.scheduler.Submit(t.Context(), root, scheduler.Submission{Spec: nimbus.Spec{Command: []string{"true"}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.scheduler.Cancel(t.Context(), root, j.OrgID, j.ID); err != nil {
		t.Fatal(err)
	}
	_, body, _ := s.get(t, "/metrics", s.AdminToken())
	for _, want := range []string{
		`nimbus_jobs_finished_total{result="cancelled",source="native"} 1`, `nimbus_leader{work="scheduler"} 1`, "nimbus_bus_connected 1",
		"nimbus_rate_limits_shared 1", `nimbus_sql_transactions_total{committed="true",kind="write"}`, `nimbus_hosts{state="ready"} 0`,
		"nimbus_http_in_flight 1", // this one
	} {
		if !strings.Contains(body, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	s.stop()
	if err := <-s.ended; err != nil {
		t.Error(err)
	}
	s.ended <- nil // for the cleanup
	select {
	case path := <-paths:
		if path != "/v1/traces" {
			t.Errorf("traces are sent to %s", path)
		}
	default:
		t.Error("a server that stopped has not sent its traces")
	}
}

// TestReplicasShareTheirLimits through Redis, and go on without it.
func TestReplicasShareTheirLimits(t *testing.T) {
	t.Parallel()
	r := testenv.Redis(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := OpenReplica(t.Context(), ReplicaConfig{Database: testenv.Postgres(t), Redis: r.URL, MasterKey: identity.KeySource{File: filepath.Join(t.TempDir(), "key")},
		Listener: l, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	replica := &running{Server: s, ended: make(chan error, 1)}
	ctx, stop := context.WithCancel(context.Background())
	up := make(chan struct{})
	go func() { replica.ended <- s.Run(ctx, func() { close(up) }) }()
	t.Cleanup(func() {
		stop()
		if err := errors.Join(<-replica.ended, s.Close()); err != nil {
			t.Error(err)
		}
	})
	<-up
	options, err := goredis.ParseURL(r.URL)
	if err != nil {
		t.Fatal(err)
	}
	client := goredis.NewClient(options)
	defer client.Close()
	call := func() {
		t.Helper()
		if status, body, _ := replica.get(t, "/api/v1/me", s.AdminToken()); status != http.StatusOK {
			t.Fatalf("answered %d %s", status, body)
		}
	}
	// Buckets are short-lived, and a machine that is busy may not wait for Redis.
	for deadline := time.Now().Add(30 * time.Second); ; {
		call()
		keys, err := client.Keys(t.Context(), "nimbus:limit:*").Result()
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(keys, "nimbus:limit:api/"+nimbus.DefaultOrgID) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("Redis has %v", keys)
		}
	}
	r.Stop()
	for range 10 {
		call()
	}
	status, body, _ := replica.get(t, "/readyz", s.AdminToken())
	if status != http.StatusOK || !strings.Contains(body, `"name":"redis","needed":false,"ok":false`) {
		t.Errorf("without Redis it is %d %s", status, body)
	}
	if _, body, _ := replica.get(t, "/metrics", s.AdminToken()); !strings.Contains(body, "nimbus_rate_limits_shared 0") {
		t.Error("the metrics don't tell that limits are held alone")
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
	s := serveTest(t, Operations{OTLP: "http://127.0.0.1:9", ClickHouse: &clickhouse.Config{URL: "http://127.0.0.1:9"}}, nil)
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
