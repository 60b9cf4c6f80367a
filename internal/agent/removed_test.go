package agent

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/api/gen/nimbus/v1/nimbusv1connect"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// plane is a control plane that has no jobs, and can remove its only host. It is
// in this process, so that virtual time counts in it.
type plane struct {
	nimbusv1connect.UnimplementedAgentServiceHandler
	nimbusv1connect.UnimplementedSessionServiceHandler

	mu      sync.Mutex
	removed bool
	away    bool
	calls   map[string]int
}

func (p *plane) set(removed, away bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.removed, p.away, p.calls = removed, away, map[string]int{}
}

func (p *plane) count(call string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls[call]
}

// admit counts a call, and refuses it as a control plane does.
func (p *plane) admit(call string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls[call]++
	switch {
	case p.away:
		return wire.Error(nimbus.Errorf(nimbus.CodeUnavailable, "the database is gone"))
	case p.removed && call == "OpenSession":
		return wire.Error(nimbus.Errorf(nimbus.CodeUnauthenticated, "this host was removed").WithHint("join anew"))
	case p.removed:
		return wire.Error(nimbus.Errorf(nimbus.CodeUnauthenticated, "this token was revoked"))
	}
	return nil
}

func (p *plane) Join(context.Context, *connect.Request[nimbusv1.JoinRequest]) (*connect.Response[nimbusv1.JoinResponse], error) {
	return connect.NewResponse(&nimbusv1.JoinResponse{HostId: "host_1"}), p.admit("Join")
}

func (p *plane) Hello(context.Context, *connect.Request[nimbusv1.HelloRequest]) (*connect.Response[nimbusv1.HelloResponse], error) {
	return connect.NewResponse(&nimbusv1.HelloResponse{}), p.admit("Hello")
}

func (p *plane) Heartbeat(context.Context, *connect.Request[nimbusv1.HeartbeatRequest]) (*connect.Response[nimbusv1.HeartbeatResponse], error) {
	return connect.NewResponse(&nimbusv1.HeartbeatResponse{}), p.admit("Heartbeat")
}

func (p *plane) Poll(ctx context.Context, r *connect.Request[nimbusv1.PollRequest]) (*connect.Response[nimbusv1.PollResponse], error) {
	if err := p.admit("Poll"); err != nil {
		return nil, err
	}
	select {
	case <-time.After(r.Msg.GetWait().AsDuration()):
	case <-ctx.Done():
	}
	return connect.NewResponse(&nimbusv1.PollResponse{}), nil
}

func (p *plane) OpenSession(_ context.Context, r *connect.Request[nimbusv1.OpenSessionRequest]) (*connect.Response[nimbusv1.OpenSessionResponse], error) {
	return connect.NewResponse(&nimbusv1.OpenSessionResponse{Opened: true, Number: r.Msg.GetNumber(), ValidFor: wire.Duration(time.Hour)}), p.admit("OpenSession")
}

// RoundTrip implements http.RoundTripper.
func (p *plane) RoundTrip(r *http.Request) (*http.Response, error) {
	_, agents := nimbusv1connect.NewAgentServiceHandler(p)
	_, sessions := nimbusv1connect.NewSessionServiceHandler(p)
	answer := httptest.NewRecorder()
	if strings.HasSuffix(path.Dir(r.URL.Path), "SessionService") {
		sessions.ServeHTTP(answer, r)
	} else {
		agents.ServeHTTP(answer, r)
	}
	return answer.Result(), r.Context().Err()
}

// said gathers what is logged from a level on.
type said struct {
	mu    sync.Mutex
	lines []string
}

func (*said) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }
func (s *said) WithAttrs([]slog.Attr) slog.Handler             { return s }
func (s *said) WithGroup(string) slog.Handler                  { return s }

func (s *said) Handle(_ context.Context, r slog.Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	line := r.Level.String() + " " + r.Message
	r.Attrs(func(a slog.Attr) bool {
		line += " " + a.String()
		return true
	})
	s.lines = append(s.lines, line)
	return nil
}

func (s *said) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	lines := s.lines
	s.lines = nil
	return lines
}

// TestARemovedHostAsksEverMoreRarely: a day of it is some two hundred questions
// and one line of log with what to do; and it goes on where it is known again.
func TestARemovedHostAsksEverMoreRarely(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, log := &plane{calls: map[string]int{}}, &said{}
		a, err := New(Config{Server: "http://127.0.0.1:1", Data: t.TempDir(), Name: "h", CPUs: 1, MemoryMiB: 512, JoinToken: "x",
			HTTP: &http.Client{Transport: p}, Log: slog.New(log)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ready, ended := make(chan struct{}), make(chan error, 1)
		go func() { ended <- a.Run(ctx, func() { close(ready) }) }()
		<-ready
		time.Sleep(3 * time.Hour)
		if lines := log.take(); len(lines) > 0 || p.count("OpenSession") < 3 {
			t.Errorf("while it is known: %d sessions, said %q", p.count("OpenSession"), lines)
		}

		p.set(true, false)
		time.Sleep(24 * time.Hour)
		if n := p.count("OpenSession"); n < 24*6*3/4 || n > 24*6*5/4+20 {
			t.Errorf("it asked %d times in a day", n)
		}
		if n := p.count("Poll") + p.count("Heartbeat") + p.count("Hello"); n > 4 {
			t.Errorf("it made %d calls as a host that it is no more", n)
		}
		lines := log.take()
		if len(lines) != 1 || !strings.HasPrefix(lines[0], "ERROR") || !strings.Contains(lines[0], "host=host_1") || !strings.Contains(lines[0], "join anew") {
			t.Errorf("it said %q", lines)
		}

		p.set(true, true)
		time.Sleep(time.Hour)
		if n := p.count("OpenSession"); n < 4 || n > 100 {
			t.Errorf("while the control plane is away besides, it asked %d times in an hour", n)
		}

		p.set(false, false)
		time.Sleep(time.Hour)
		if p.count("Poll") == 0 || p.count("Heartbeat") == 0 || a.session.lost() != nil {
			t.Errorf("it does not work again: %d polls, %v", p.count("Poll"), a.session.lost())
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
