package httpapi_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/httpapi"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/ratelimit"
	"github.com/nimbus-ci/nimbus/internal/ratelimit/redis"
	"github.com/nimbus-ci/nimbus/internal/testenv"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// few is a rate that fills by nothing that a test could notice.
var few = ratelimit.Rate{PerSecond: ratelimit.MinPerSecond, Burst: 3}

// limited starts a plane with limits; what is not set is off.
func limited(t *testing.T, set httpapi.Limits, shared ratelimit.Limiter) (*plane, *heard) {
	t.Helper()
	h := &heard{refused: map[string]int{}, answered: map[string]int{}}
	for _, r := range []*ratelimit.Rate{&set.API, &set.Host, &set.Stranger, &set.Submit, &set.Webhook} {
		if *r == (ratelimit.Rate{}) {
			*r = ratelimit.Unlimited()
		}
	}
	p := startPlane(t, func(cfg *httpapi.Config) {
		cfg.Gate, cfg.Observer = httpapi.NewGate(set, nil, shared, h), h
		cfg.Webhook = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) })
	})
	return p, h
}

// heard is an observer that remembers.
type heard struct {
	mu                sync.Mutex
	asked, open       int
	refused, answered map[string]int
}

func (h *heard) Asked() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked++
	h.open++
}

func (h *heard) Answered(procedure, code string, took time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open--
	if took < 0 {
		panic("a request took less than no time")
	}
	h.answered[procedure+" "+code]++
}

func (h *heard) Refused(limit string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refused[limit]++
}

func (h *heard) refusals(limit string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.refused[limit]
}

const listJobs = "/nimbus.v1.JobService/ListJobs"

// checkRefused: a refusal says what, when to come again, and what may be done.
func checkRefused(t *testing.T, what string, got answer) {
	t.Helper()
	wait, err := strconv.Atoi(got.header.Get("Retry-After"))
	if got.status != http.StatusTooManyRequests || got.header.Get(wire.CodeHeader) != string(nimbus.CodeRateLimited) ||
		err != nil || wait < 1 || wait > 1000 || !strings.Contains(got.header.Get(wire.HintHeader), "try+again") || !strings.Contains(got.body, "too many") {
		t.Errorf("%s: %d %s %v", what, got.status, got.body, got.header)
	}
}

// TestOneOrgsBurstIsItsOwn: one org is refused what is too much; another one's
// calls, and its own of another kind, go on. A refused call changes nothing and
// harms none that comes after, also on its connection.
func TestOneOrgsBurstIsItsOwn(t *testing.T) {
	t.Parallel()
	p, h := limited(t, httpapi.Limits{API: few, Submit: few}, nil)
	org := func(name string) string {
		o, err := p.identity.CreateOrg(t.Context(), identity.Root(), name, nil)
		must(t, err)
		return o.ID
	}
	noisy, quiet := org("noisy"), org("quiet")
	call := func(org string) answer { return p.asAdmin(t, http.MethodPost, listJobs, "{}", wire.OrgHeader, org) }
	for i := range few.Burst {
		if got := call(noisy); got.status != http.StatusOK {
			t.Fatalf("call %d: %d %s", i, got.status, got.body)
		}
	}
	for range 3 * few.Burst {
		checkRefused(t, "one too many", call(noisy))
	}
	for i := range few.Burst {
		if got := call(quiet); got.status != http.StatusOK {
			t.Errorf("call %d of the other org: %d %s", i, got.status, got.body)
		}
	}
	if got := h.refusals("api"); got != 3*few.Burst {
		t.Errorf("%d refusals were counted, want %d", got, 3*few.Burst)
	}
	submit := func(name string) answer {
		return p.asAdmin(t, http.MethodPost, "/nimbus.v1.JobService/SubmitJob", `{"class":{"executor":"local"},"spec":{"command":["true"]},"name":"`+name+`"}`)
	}
	for i := range few.Burst {
		if got := submit(fmt.Sprint("job", i)); got.status != http.StatusOK {
			t.Fatalf("submission %d: %d %s", i, got.status, got.body)
		}
	}
	checkRefused(t, "a submission too many", submit("refused"))
	if got := p.asAdmin(t, http.MethodPost, listJobs, "{}"); got.status != http.StatusOK || strings.Contains(got.body, "refused") || strings.Count(got.body, `"id"`) < few.Burst {
		t.Errorf("after the refusal there are: %d %s", got.status, got.body)
	}
}

// TestStrangersAreBounded: by address, for what needs no token and for what
// comes with a wrong one; who has one is not touched by it.
func TestStrangersAreBounded(t *testing.T) {
	t.Parallel()
	for name, ask := range map[string]func(*testing.T, *plane) answer{
		"no token": func(t *testing.T, p *plane) answer { return p.ask(t, http.MethodPost, listJobs, "{}") },
		"a wrong one": func(t *testing.T, p *plane) answer {
			return p.ask(t, http.MethodPost, listJobs, "{}", "Authorization", "Bearer wrong")
		},
		"plain": func(t *testing.T, p *plane) answer { return p.ask(t, http.MethodGet, "/api/v1/me", "") },
		"a join": func(t *testing.T, p *plane) answer {
			return p.ask(t, http.MethodPost, "/nimbus.v1.AgentService/Join", "{}")
		},
		"a login": func(t *testing.T, p *plane) answer { return p.ask(t, http.MethodGet, "/login?code=x", "") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, _ := limited(t, httpapi.Limits{Stranger: few}, nil)
			for range few.Burst {
				if got := ask(t, p); got.status == http.StatusTooManyRequests {
					t.Fatalf("refused: %s", got.body)
				}
			}
			checkRefused(t, "one too many", ask(t, p))
			if got := p.asAdmin(t, http.MethodPost, listJobs, "{}"); got.status != http.StatusOK {
				t.Errorf("who is known: %d %s", got.status, got.body)
			}
			if got := p.ask(t, http.MethodGet, "/healthz", ""); got.status != http.StatusOK {
				t.Errorf("a probe: %d", got.status)
			}
		})
	}
}

// TestWebhooksAreBounded: by address before it is known whose they are, and by
// installation after.
func TestWebhooksAreBounded(t *testing.T) {
	t.Parallel()
	p, h := limited(t, httpapi.Limits{Webhook: few}, nil)
	for i := range 4 * few.Burst {
		if got := p.ask(t, http.MethodPost, "/webhooks/github", "{}"); got.status != http.StatusAccepted {
			t.Fatalf("webhook %d: %d %s", i, got.status, got.body)
		}
	}
	checkRefused(t, "a webhook too many", p.ask(t, http.MethodPost, "/webhooks/github", "{}"))
	gate := httpapi.NewGate(httpapi.Limits{Webhook: few}, nil, nil, h)
	for range few.Burst {
		must(t, gate.Delivery(t.Context(), 1, ""))
	}
	if err := gate.Delivery(t.Context(), 1, ""); nimbus.ErrorCode(err) != nimbus.CodeRateLimited || nimbus.ErrorRetryAfter(err) <= 0 {
		t.Errorf("a delivery too many: %v", err)
	}
	must(t, gate.Delivery(t.Context(), 2, ""))
}

// TestHostsHaveTheirOwnBound: hosts take nothing of an org's, and one that has
// gone mad leaves the others theirs.
func TestHostsHaveTheirOwnBound(t *testing.T) {
	t.Parallel()
	host := ratelimit.Rate{PerSecond: ratelimit.MinPerSecond, Burst: 10}
	p, _ := limited(t, httpapi.Limits{API: few, Host: host}, nil)
	mad, well := p.join(t), p.join(t) // one call each, Hello
	beat := func(h hostPlayer) error {
		_, err := h.Heartbeat(t.Context(), connect.NewRequest(&nimbusv1.HeartbeatRequest{}))
		return wire.ToError(err)
	}
	for range host.Burst - 1 {
		must(t, beat(mad))
	}
	if err := beat(mad); nimbus.ErrorCode(err) != nimbus.CodeRateLimited || nimbus.ErrorRetryAfter(err) <= 0 {
		t.Errorf("a heartbeat too many: %v", err)
	}
	for range host.Burst - 1 {
		must(t, beat(well))
	}
}

// TestLimitsHoldWithoutRedis: requests go on while Redis is killed, on the door
// of each replica, and each refuses what is too much.
func TestLimitsHoldWithoutRedis(t *testing.T) {
	t.Parallel()
	r := testenv.Redis(t)
	var doors []*plane
	for range 2 {
		shared, err := redis.Open(r.URL, 20*time.Second)
		must(t, err)
		f := ratelimit.NewFallback(shared, ratelimit.NewLocal(nimbus.SystemClock{}, 100), slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan error)
		go func() { ended <- f.Run(ctx, func() {}) }()
		t.Cleanup(func() {
			stop()
			must(t, errors.Join(<-ended, shared.Close()))
		})
		p, _ := limited(t, httpapi.Limits{API: few}, f)
		doors = append(doors, p)
	}
	through := func(doors ...*plane) (n int) {
		t.Helper()
		for i := range 4 * few.Burst * len(doors) {
			switch got := doors[i%len(doors)].asAdmin(t, http.MethodPost, listJobs, "{}"); got.status {
			case http.StatusOK:
				n++
			case http.StatusTooManyRequests:
				checkRefused(t, "one too many", got)
			default:
				t.Fatalf("answered %d %s", got.status, got.body)
			}
		}
		return n
	}
	if n := through(doors...); n != few.Burst {
		t.Errorf("with Redis %d calls got through both doors, want %d", n, few.Burst)
	}
	r.Stop()
	for _, door := range doors {
		if n := through(door); n != few.Burst {
			t.Errorf("without Redis %d calls got through a door, want %d", n, few.Burst)
		}
	}
}

// TestRequestsAreHeard: by the few words that they can be told in, whatever a
// stranger asks for.
func TestRequestsAreHeard(t *testing.T) {
	t.Parallel()
	p, h := limited(t, httpapi.Limits{}, nil)
	p.asAdmin(t, http.MethodPost, listJobs, "{}")
	p.ask(t, http.MethodPost, listJobs, "{}")
	p.asAdmin(t, http.MethodPost, "/nimbus.v1.JobService/GetJob", `{"jobId":"job_00000000000000000000000000"}`)
	p.ask(t, http.MethodGet, "/no/such/page/"+nimbus.NewID(nimbus.PrefixJob, time.Now()), "")
	p.ask(t, http.MethodPost, "/nimbus.v1.JobService/NoSuchThing", "{}")
	p.asAdmin(t, http.MethodGet, "/api/v1/jobs/"+nimbus.NewID(nimbus.PrefixJob, time.Now())+"/log", "")
	p.ask(t, http.MethodGet, "/healthz", "")
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, want := range []string{
		listJobs + " ok", listJobs + " unauthenticated", "/nimbus.v1.JobService/GetJob not_found",
		"/nimbus.v1.JobService/ not_found", "GET /api/v1/jobs/{id}/log not_found", "GET /healthz ok",
	} {
		if h.answered[want] != 1 {
			t.Errorf("%q was heard %d times in %v", want, h.answered[want], h.answered)
		}
	}
	for told := range h.answered {
		if strings.Contains(told, "job_") || strings.Contains(told, "NoSuchThing") {
			t.Errorf("what a stranger wrote is told: %q", told)
		}
	}
	if h.open != 0 || h.asked < 7 {
		t.Errorf("of %d requests %d are still open", h.asked, h.open)
	}
}
