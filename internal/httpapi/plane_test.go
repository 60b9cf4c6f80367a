package httpapi_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/api/gen/nimbus/v1/nimbusv1connect"
	"github.com/nimbus-ci/nimbus/internal/audit"
	"github.com/nimbus-ci/nimbus/internal/blob/fs"
	"github.com/nimbus-ci/nimbus/internal/blob/mem"
	"github.com/nimbus-ci/nimbus/internal/bus"
	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/httpapi"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/logs"
	"github.com/nimbus-ci/nimbus/internal/logs/segment"
	"github.com/nimbus-ci/nimbus/internal/ratelimit"
	"github.com/nimbus-ci/nimbus/internal/registry"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/shells"
	"github.com/nimbus-ci/nimbus/internal/store"
	"github.com/nimbus-ci/nimbus/internal/store/storetest"
	"github.com/nimbus-ci/nimbus/internal/traces"
	"github.com/nimbus-ci/nimbus/internal/wire"
	"github.com/nimbus-ci/nimbus/web"
)

// plane is the door with the real rooms behind it; tests play the host.
type plane struct {
	logs         logs.Store
	url, address string
	identity     *identity.Service
	scheduler    *scheduler.Service
	ledger       *audit.Ledger
	tally        *audit.Tally
	shells       *shells.Service
	traces       *traces.Service
	books        *store.Store
	rates        *ratelimit.Overrides
	blobs        httpapi.Blobs
	cache        *cache.Service
	admin        string
	leases       map[string]nimbus.Lease // of the jobs of jobToken that run, by host
}

// unheard counts nothing.
type unheard struct{}

func (unheard) TelemetryStored(nimbus.Signal, int, int) {}
func (unheard) TelemetryRefused(int)                    {}

func startPlane(t *testing.T, edit ...func(*httpapi.Config)) *plane {
	t.Helper()
	dir := t.TempDir()
	db := openStore(t, "sqlite:"+filepath.Join(dir, "nimbus.db"))
	lines, err := segment.Open(filepath.Join(dir, "logs"), 1<<30)
	must(t, err)
	t.Cleanup(func() { lines.Close() })
	blobs, err := fs.Open(filepath.Join(dir, "blobs"))
	must(t, err)
	t.Cleanup(func() { blobs.Close() })
	return startPlaneOn(t, db, lines, blobs, edit...)
}

// startReplica is a plane of the scale profile: all is in PostgreSQL.
func startReplica(t *testing.T) *plane {
	t.Helper()
	db := openStore(t, storetest.Postgres(t))
	lines, err := db.Logs(1 << 30)
	must(t, err)
	return startPlaneOn(t, db, lines, db.Blobs())
}

func openStore(t *testing.T, dsn string) *store.Store {
	t.Helper()
	db, err := store.Open(t.Context(), store.Config{DSN: dsn})
	must(t, err)
	t.Cleanup(func() { db.Close() })
	return db
}

func startPlaneOn(t *testing.T, db *store.Store, lines logs.Store, blobs httpapi.Blobs, edit ...func(*httpapi.Config)) *plane {
	t.Helper()
	log, b := slog.New(slog.DiscardHandler), bus.NewInProcess()
	p := &plane{books: db, identity: identity.New(db, nimbus.SystemClock{}), blobs: blobs, logs: lines}
	keyring, err := identity.OpenKeyring(filepath.Join(t.TempDir(), "master.key"))
	must(t, err)
	p.ledger, err = audit.Open(t.Context(), audit.Config{Log: log}, db, identity.Secrets{Store: db, Keyring: keyring})
	must(t, err)
	p.shells = shells.New(shells.Config{Store: db, Sealer: keyring, Logs: lines, Bus: b, Look: 50 * time.Millisecond, Log: log})
	p.rates = ratelimit.NewOverrides(db, log)
	p.cache = cache.New(cache.Config{Store: db, Blobs: mem.New(1 << 20), Log: log})
	p.tally = audit.NewTally(db, log)
	p.scheduler = scheduler.New(scheduler.Config{AllowTrustedLocal: true}, db, b, nil, p.identity, log)
	p.admin, _, err = p.identity.IssueAdmin(t.Context())
	must(t, err)
	p.traces = traces.New(traces.Config{Store: db, Jobs: p.scheduler, Observer: unheard{}, Log: log})
	off := ratelimit.Unlimited()
	cfg := httpapi.Config{
		Jobs: p.scheduler, Queue: p.scheduler, Reruns: p.scheduler, Hosts: p.scheduler, Identity: p.identity, Logs: lines, Blobs: blobs, Bus: b, Pages: web.Pages(), GitHub: noApps{}, Checks: []httpapi.Check{{Name: "database", Needed: true, Do: db.Ping}}, Log: log,
		Gate:   httpapi.NewGate(httpapi.Limits{API: off, Submit: off, Webhook: off, Stranger: off, Host: off}, p.rates, nil, nil),
		Images: registry.New(registry.Config{Store: db, Blobs: mem.New(1 << 20), Key: []byte("key"), Log: log}),
		Audit:  p.ledger, Tally: p.tally, Rates: p.rates, OrgCache: db, LogBooks: db, Shells: p.shells, Telemetry: p.traces, Caches: p.cache.Desk(),
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }),
	}
	for _, e := range edit {
		e(&cfg)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	p.address = l.Addr().String()
	p.url = "http://" + p.address
	server := httpapi.NewServer(httpapi.New(cfg), log)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- p.scheduler.Run(ctx, func() {}) }()
	go func() { ended <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Close()
		stop()
		<-ended
		<-ended
	})
	return p
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// answer is what came back.
type answer struct {
	status int
	body   string
	header http.Header
}

// ask makes one request; headers are pairs.
func (p *plane) ask(t *testing.T, method, path, body string, headers ...string) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, p.url+path, strings.NewReader(body))
	must(t, err)
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	got, err := client.Do(r)
	must(t, err)
	defer got.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(got.Body, 64<<20))
	must(t, err)
	out := answer{got.StatusCode, string(raw), got.Header}
	if err := readDescription(t).check(path, out); err != nil && method == http.MethodPost {
		t.Errorf("not as described: %v", err)
	}
	return out
}

func (p *plane) asAdmin(t *testing.T, method, path, body string, headers ...string) answer {
	t.Helper()
	return p.ask(t, method, path, body, append(headers, "Authorization", "Bearer "+p.admin)...)
}

// hostPlayer is a host as the control plane sees one.
type hostPlayer struct {
	nimbusv1connect.AgentServiceClient
	token string
}

func (p *plane) join(t *testing.T) hostPlayer {
	t.Helper()
	join, _, err := p.identity.IssueJoin(t.Context(), identity.Root(), time.Minute)
	must(t, err)
	inventory := &nimbusv1.Inventory{Arch: "amd64", Cpus: 8, MemoryMib: 8192, Shells: true, Executors: []*nimbusv1.ExecutorStatus{{Name: nimbus.ExecutorLocal, Available: true}}}
	nobody := nimbusv1connect.NewAgentServiceClient(http.DefaultClient, p.url)
	joined, err := nobody.Join(t.Context(), connect.NewRequest(&nimbusv1.JoinRequest{JoinToken: join, Name: "played", Version: "test", Inventory: inventory}))
	must(t, err)
	h := hostPlayer{token: joined.Msg.GetHostToken()}
	caller := wire.Caller{Token: func() string { return h.token }}
	h.AgentServiceClient = nimbusv1connect.NewAgentServiceClient(http.DefaultClient, p.url, connect.WithInterceptors(caller))
	_, err = h.Hello(t.Context(), connect.NewRequest(&nimbusv1.HelloRequest{Version: "test", Inventory: inventory}))
	must(t, err)
	return h
}

func (p *plane) submit(t *testing.T) nimbus.Job {
	t.Helper()
	j, err := p.scheduler.Submit(t.Context(), nimbus.Principal{Kind: nimbus.PrincipalAdmin, OrgID: nimbus.DefaultOrgID, Subject: "admin"}, scheduler.Submission{
		Class: nimbus.Class{Executor: nimbus.ExecutorLocal}, Spec: nimbus.Spec{Command: []string{"true"}},
	})
	must(t, err)
	return j
}

// accept takes the next job there is, up to its process running.
func (h hostPlayer) accept(t *testing.T) *nimbusv1.Lease {
	t.Helper()
	for range 20 {
		polled, err := h.Poll(t.Context(), connect.NewRequest(&nimbusv1.PollRequest{FreeCpus: 8, FreeMemoryMib: 8192, FreeSandboxes: 4, Wait: wire.Duration(time.Second)}))
		must(t, err)
		for _, o := range polled.Msg.GetOffers() {
			_, err := h.Accept(t.Context(), connect.NewRequest(&nimbusv1.AcceptRequest{Lease: o.GetLease()}))
			must(t, err)
			for _, phase := range []nimbus.Phase{nimbus.PhaseSandboxReady, nimbus.PhaseStarted} {
				_, err := h.ReportPhase(t.Context(), connect.NewRequest(&nimbusv1.ReportPhaseRequest{Lease: o.GetLease(), Phase: string(phase)}))
				must(t, err)
			}
			return o.GetLease()
		}
	}
	t.Fatal("no job was offered")
	return nil
}

// write appends the lines from..to.
func (h hostPlayer) write(t *testing.T, lease *nimbusv1.Lease, from, to int64) {
	t.Helper()
	request := &nimbusv1.AppendLogRequest{Lease: lease}
	for seq := from; seq <= to; seq++ {
		request.Lines = append(request.Lines, wire.Line(nimbus.Line{Seq: seq, At: time.Now(), Stream: nimbus.StreamStdout, Text: "a line"}))
	}
	acked, err := h.AppendLog(t.Context(), connect.NewRequest(request))
	must(t, err)
	if acked.Msg.GetAcknowledgedSeq() != to {
		t.Fatalf("%d is acknowledged, not %d", acked.Msg.GetAcknowledgedSeq(), to)
	}
}

// writeText appends a first line that is text.
func (h hostPlayer) writeText(t *testing.T, lease *nimbusv1.Lease, text string) {
	t.Helper()
	line := wire.Line(nimbus.Line{Seq: 1, At: time.Now(), Stream: nimbus.StreamStdout, Text: text})
	_, err := h.AppendLog(t.Context(), connect.NewRequest(&nimbusv1.AppendLogRequest{Lease: lease, Lines: []*nimbusv1.Line{line}}))
	must(t, err)
}

func (h hostPlayer) finish(t *testing.T, lease *nimbusv1.Lease, lines int64) {
	t.Helper()
	code := int32(0)
	_, err := h.FinishAttempt(t.Context(), connect.NewRequest(&nimbusv1.FinishAttemptRequest{
		Lease: lease, Outcome: &nimbusv1.Outcome{Result: nimbusv1.JobResult_JOB_RESULT_SUCCESS, ExitCode: &code, LogLines: lines},
	}))
	must(t, err)
}

// finished stands for the end of an attempt in a list of its phases.
const finished = nimbus.Phase("finished")

// renewJobs keeps the jobs of jobToken from being lost.
func (p *plane) renewJobs(t *testing.T) {
	t.Helper()
	for host, lease := range p.leases {
		_, err := p.scheduler.Heartbeat(t.Context(), host, []nimbus.Lease{lease})
		must(t, err)
	}
}

// jobToken is the token of a job whose attempt has reached phases.
func (p *plane) jobToken(t *testing.T, phases ...nimbus.Phase) string {
	t.Helper()
	ctx := t.Context()
	h, err := p.scheduler.RegisterHost(ctx, "h", "test", nimbus.Inventory{Arch: "amd64", CPUs: 1, MemoryMiB: 1024,
		Executors: []nimbus.ExecutorStatus{{Name: nimbus.ExecutorLocal, Available: true}}})
	must(t, err)
	_, err = p.scheduler.Submit(ctx, nimbus.Principal{Kind: nimbus.PrincipalAdmin}, scheduler.Submission{
		Class: nimbus.Class{Executor: nimbus.ExecutorLocal}, Spec: nimbus.Spec{Command: []string{"true"}}})
	must(t, err)
	work, err := p.scheduler.Poll(ctx, h.ID, nimbus.Capacity{CPUs: 1, MemoryMiB: 1024, Sandboxes: 1}, 10*time.Second)
	must(t, err)
	if len(work.Offers) != 1 {
		t.Fatalf("offered %d jobs", len(work.Offers))
	}
	lease := work.Offers[0].Lease
	as, err := p.scheduler.Accept(ctx, h.ID, lease)
	must(t, err)
	if p.leases == nil {
		p.leases = map[string]nimbus.Lease{}
	}
	p.leases[h.ID] = lease
	for _, phase := range phases {
		if phase == finished {
			must(t, p.scheduler.Finish(ctx, h.ID, lease, nimbus.Outcome{Result: nimbus.ResultSuccess}))
			delete(p.leases, h.ID)
			continue
		}
		must(t, p.scheduler.ReportPhase(ctx, h.ID, lease, phase, nimbus.Start{}))
	}
	return as.JobToken
}

// noApps is a GitHub that every call may be made to, and that does nothing: who
// may call it is what matters here.
type noApps struct{}

func (noApps) Apps(context.Context) ([]nimbus.GitHubApp, error) { return nil, nil }

func (noApps) Connect(context.Context, nimbus.Principal, int64, []byte, []byte, string) (nimbus.GitHubApp, error) {
	return nimbus.GitHubApp{}, nil
}

func (noApps) ConvertManifest(context.Context, nimbus.Principal, string, string) (nimbus.GitHubApp, error) {
	return nimbus.GitHubApp{}, nil
}

func (noApps) RotateWebhookSecret(context.Context, nimbus.Principal, int64) (nimbus.GitHubApp, error) {
	return nimbus.GitHubApp{}, nil
}

func (noApps) Remove(context.Context, nimbus.Principal, int64) error { return nil }

func (noApps) Installations(context.Context) ([]nimbus.GitHubInstallation, error) { return nil, nil }

func (noApps) Examine(context.Context) []nimbus.GitHubCheck { return nil }

func (noApps) RunnerReleases(context.Context) ([]nimbus.RunnerReleases, error) { return nil, nil }

func (noApps) RunnerPlaces(context.Context) ([]nimbus.RunnerPlace, error) { return nil, nil }

func (noApps) SetRunnerPlace(context.Context, nimbus.Principal, int64, bool, string) (nimbus.RunnerPlace, error) {
	return nimbus.RunnerPlace{}, nil
}

func (noApps) ScaleSets(context.Context) ([]nimbus.ScaleSet, error) { return nil, nil }

func (noApps) AddScaleSet(context.Context, nimbus.Principal, nimbus.ScaleSet) (nimbus.ScaleSet, error) {
	return nimbus.ScaleSet{}, nil
}

func (noApps) RemoveScaleSet(context.Context, nimbus.Principal, string) error { return nil }
