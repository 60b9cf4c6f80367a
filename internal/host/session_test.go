package host_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/agent"
	"github.com/nimbus-ci/nimbus/internal/identity"
)

// bare is an agent of a directory that runs no jobs: it joins, and is known.
type bare struct {
	plane *plane
	data  string
	http  *http.Client
}

func newBare(t *testing.T, p *plane) *bare {
	t.Helper()
	return &bare{plane: p, data: t.TempDir()}
}

func (b *bare) joinToken(t *testing.T) string {
	t.Helper()
	join, _, err := b.plane.identity.IssueJoin(t.Context(), identity.Root(), time.Minute)
	must(t, err)
	return join
}

// start runs the agent until it is ready, and then stops it. Its error is that
// of an agent that does not become ready within a time.
func (b *bare) start(t *testing.T, join string) error {
	t.Helper()
	a, err := agent.New(agent.Config{Server: b.plane.url, Data: b.data, Name: "bare", Version: "test", JoinToken: join,
		CPUs: 1, MemoryMiB: 1024, HTTP: b.http, Log: logger(t)})
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return a.Run(ctx, cancel)
}

// kept is what the agent keeps of itself.
type kept struct {
	HostID   string `json:"host_id"`
	Token    string `json:"token"`
	Next     string `json:"next"`
	Number   int64  `json:"number"`
	Enrolled bool   `json:"enrolled"`
}

func (b *bare) file() string { return filepath.Join(b.data, "credential.json") }

func (b *bare) kept(t *testing.T) (k kept) {
	t.Helper()
	raw, err := os.ReadFile(b.file())
	must(t, err)
	must(t, json.Unmarshal(raw, &k))
	info, err := os.Stat(b.file())
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("others may read the credential: %v", info.Mode())
	}
	return k
}

// known tells whether the control plane takes a token for the host's.
func (b *bare) known(t *testing.T, k kept) bool {
	t.Helper()
	p, err := b.plane.identity.Authenticate(t.Context(), k.Token)
	return err == nil && p.Subject == k.HostID
}

func (b *bare) hosts(t *testing.T) int {
	t.Helper()
	hosts, err := b.plane.scheduler.Hosts(t.Context())
	must(t, err)
	return len(hosts)
}

// TestAHostComesBackWhateverTheClocksSay: one that was away for longer than its
// session needs nobody to come back, and its clock and the control plane's may
// be hours apart.
func TestAHostComesBackWhateverTheClocksSay(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	b := newBare(t, p)
	must(t, p.db.OffsetClock(t.Context(), -7*time.Hour))
	if err := b.start(t, b.joinToken(t)); err != nil {
		t.Fatal(err)
	}
	first := b.kept(t)
	if !first.Enrolled || !b.known(t, first) {
		t.Fatalf("it joined as %q, enrolled %v", first.HostID, first.Enrolled)
	}
	must(t, p.db.OffsetClock(t.Context(), 48*time.Hour))
	if b.known(t, first) {
		t.Fatal("its session goes on for ever")
	}
	if err := b.start(t, ""); err != nil {
		t.Fatal(err)
	}
	if again := b.kept(t); !b.known(t, again) || again.HostID != first.HostID || again.Number != first.Number+1 {
		t.Errorf("it came back with session %d of %s", again.Number, again.HostID)
	}
}

// TestASessionThatEndsWhileTheAgentRuns: a call whose token is refused is made
// again with a new one, so that no attempt notices.
func TestASessionThatEndsWhileTheAgentRuns(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	b := newBare(t, p)
	var calls atomic.Int64
	b.http = &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		if strings.HasSuffix(r.URL.Path, "/Hello") && calls.Add(1) == 1 {
			must(t, p.db.OffsetClock(t.Context(), 2*time.Hour)) // between the session and its first use
		}
		return http.DefaultTransport.RoundTrip(r)
	})}
	if err := b.start(t, b.joinToken(t)); err != nil {
		t.Fatal(err)
	}
	if k := b.kept(t); k.Number != 2 || !b.known(t, k) || calls.Load() != 2 {
		t.Errorf("after %d calls it is in session %d", calls.Load(), k.Number)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// lose has the answers to calls of a name get lost, n times; the last of them
// takes the agent along when kill is set.
func (b *bare) lose(call string, n int64, answered bool) *atomic.Int64 {
	var lost atomic.Int64
	b.http = &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		if !strings.HasSuffix(r.URL.Path, "/"+call) || lost.Add(1) > n {
			return http.DefaultTransport.RoundTrip(r)
		}
		if answered {
			if answer, err := http.DefaultTransport.RoundTrip(r); err == nil {
				answer.Body.Close()
			}
		}
		return nil, errors.New("the network is gone")
	})}
	return &lost
}

// TestLostAnswersLockNobodyOut: of joining, and of opening a session.
func TestLostAnswersLockNobodyOut(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	for _, call := range []string{"Join", "OpenSession"} {
		b := newBare(t, p)
		before := b.hosts(t)
		lost := b.lose(call, 3, true)
		if err := b.start(t, b.joinToken(t)); err != nil {
			t.Errorf("%s: %v", call, err)
			continue
		}
		if k := b.kept(t); !b.known(t, k) || k.Number != 1 || lost.Load() != 4 || b.hosts(t) != before+1 {
			t.Errorf("%s: session %d after %d tries, %d hosts more", call, k.Number, lost.Load(), b.hosts(t)-before)
		}
	}
}

// TestAnAgentThatDiesWhileItOpensASession: wherever it died, the next one goes
// on, with the same host.
func TestAnAgentThatDiesWhileItOpensASession(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	for _, call := range []string{"Join", "OpenSession"} {
		for what, answered := range map[string]bool{"before the call": false, "before the answer": true} {
			b := newBare(t, p)
			before, join := b.hosts(t), b.joinToken(t)
			ctx, die := context.WithCancel(t.Context())
			b.lose(call, 1, answered)
			inner := b.http.Transport
			b.http.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
				answer, err := inner.RoundTrip(r)
				if err != nil {
					die()
				}
				return answer, err
			})
			a, err := agent.New(agent.Config{Server: p.url, Data: b.data, Name: "bare", Version: "test", JoinToken: join,
				CPUs: 1, MemoryMiB: 1024, HTTP: b.http, Log: logger(t)})
			must(t, err)
			if err := a.Run(ctx, func() { t.Errorf("%s %s: it is ready", call, what) }); err == nil {
				t.Errorf("%s %s: it did not die", call, what)
			}
			b.http = nil
			if err := b.start(t, join); err != nil {
				t.Errorf("%s %s: the next agent ended: %v", call, what, err)
				continue
			}
			if k := b.kept(t); !b.known(t, k) || b.hosts(t) != before+1 {
				t.Errorf("%s %s: session %d, %d hosts more", call, what, k.Number, b.hosts(t)-before)
			}
		}
	}
}

// TestADiskThatIsOlderThanItsHost: the credential comes from a backup, and the
// numbers of later sessions are spent.
func TestADiskThatIsOlderThanItsHost(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	b := newBare(t, p)
	if err := b.start(t, b.joinToken(t)); err != nil {
		t.Fatal(err)
	}
	backup, err := os.ReadFile(b.file())
	must(t, err)
	for range 3 {
		must(t, b.start(t, ""))
	}
	must(t, os.WriteFile(b.file(), backup, 0o600))
	if err := b.start(t, ""); err != nil {
		t.Fatal(err)
	}
	if k := b.kept(t); k.Number != 5 || !b.known(t, k) {
		t.Errorf("it is in session %d", k.Number)
	}
}

// TestARemovedHost hears why it is nobody any more, and joins as another with a
// new token.
func TestARemovedHost(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	b := newBare(t, p)
	must(t, b.start(t, b.joinToken(t)))
	first := b.kept(t)
	must(t, p.scheduler.RemoveHost(t.Context(), nimbus.Principal{Kind: nimbus.PrincipalAdmin}, first.HostID, false))
	if b.known(t, first) {
		t.Error("its session goes on")
	}
	err := b.start(t, "")
	if nimbus.ErrorCode(err) != nimbus.CodeUnauthenticated || !strings.Contains(nimbus.ErrorHint(err), "nimbus hosts token") {
		t.Errorf("it is told %v, hint %q", err, nimbus.ErrorHint(err))
	}
	must(t, b.start(t, b.joinToken(t)))
	if again := b.kept(t); again.HostID == first.HostID || !b.known(t, again) {
		t.Errorf("it joined anew as %s", again.HostID)
	}
}

// TestAHostOfBeforeSessions: its token of before works until it has a key and a
// session, and then no longer.
func TestAHostOfBeforeSessions(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	b := newBare(t, p)
	h, err := p.scheduler.RegisterHost(t.Context(), "bare", "old", nimbus.Inventory{Arch: "amd64", CPUs: 1, MemoryMiB: 1024})
	must(t, err)
	token, err := p.identity.IssueHost(t.Context(), h.ID)
	must(t, err)
	raw, err := json.Marshal(map[string]string{"server": p.url, "host_id": h.ID, "token": token})
	must(t, err)
	must(t, os.WriteFile(b.file(), raw, 0o600))
	must(t, b.start(t, ""))
	k := b.kept(t)
	if k.HostID != h.ID || !k.Enrolled || k.Number != 1 || !b.known(t, k) {
		t.Errorf("it is %+v", k)
	}
	must(t, p.db.OffsetClock(t.Context(), 5*time.Minute))
	if b.known(t, kept{HostID: h.ID, Token: token}) {
		t.Error("the token of before goes on for ever")
	}
	// On a control plane that is as old as the host was, it goes on.
	must(t, os.WriteFile(b.file(), raw, 0o600))
	must(t, p.scheduler.RemoveHost(t.Context(), nimbus.Principal{Kind: nimbus.PrincipalAdmin}, h.ID, false))
	if err := b.start(t, ""); nimbus.ErrorHint(err) == "" {
		t.Errorf("a removed host of before is told %v without a hint", err)
	}
}

// TestAControlPlaneOfBeforeSessions: a host of now joins it, and works with the
// token that it gets.
func TestAControlPlaneOfBeforeSessions(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	b := newBare(t, p)
	b.http = &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		if strings.HasPrefix(r.URL.Path, "/nimbus.v1.SessionService/") {
			r = r.Clone(r.Context())
			r.URL.Path = "/nimbus.v1.NobodyKnows/Call"
		}
		return http.DefaultTransport.RoundTrip(r)
	})}
	h, err := p.scheduler.RegisterHost(t.Context(), "bare", "old", nimbus.Inventory{Arch: "amd64", CPUs: 1, MemoryMiB: 1024})
	must(t, err)
	token, err := p.identity.IssueHost(t.Context(), h.ID)
	must(t, err)
	raw, err := json.Marshal(map[string]string{"server": p.url, "host_id": h.ID, "token": token})
	must(t, err)
	must(t, os.WriteFile(b.file(), raw, 0o600))
	must(t, b.start(t, ""))
	if k := b.kept(t); k.Token != token || k.Enrolled {
		t.Errorf("it is %+v", k)
	}
}
