package simhost_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/server"
	"github.com/nimbus-ci/nimbus/test/simhost"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// plane is a control plane in this process.
type plane struct {
	*client.Client
	t      *testing.T
	url    string
	github simhost.GitHub // what its machines' runners speak to, if any
}

func newPlane(t *testing.T) *plane {
	t.Helper()
	return newPlaneOf(t, nil)
}

func newPlaneOf(t *testing.T, app *server.GitHub) *plane {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := server.Open(t.Context(), server.Config{Data: t.TempDir(), Listener: l, GitHub: app, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- s.Run(ctx, func() { close(ready) }) }()
	<-ready
	c, err := client.New(client.Config{Server: s.URL(), Token: s.AdminToken()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return &plane{Client: c, t: t, url: s.URL()}
}

func (p *plane) machine(r *simhost.Records) *simhost.Machine {
	p.t.Helper()
	token, _, err := p.CreateJoinToken(p.t.Context(), 0)
	if err != nil {
		p.t.Fatal(err)
	}
	h, err := simhost.Join(p.t.Context(), simhost.Config{Server: p.url, JoinToken: token, Name: "sim", Slots: 4})
	if err != nil {
		p.t.Fatal(err)
	}
	m := simhost.NewMachine(h, r)
	m.GitHub = p.github
	p.t.Cleanup(m.Close)
	m.Boot(p.t.Context())
	return m
}

func (p *plane) submit(work time.Duration) string {
	p.t.Helper()
	j, err := p.Submit(p.t.Context(), client.Submission{Spec: nimbus.Spec{Command: simhost.Work(work), Repeatable: true}})
	if err != nil {
		p.t.Fatal(err)
	}
	return j.ID
}

func (p *plane) await(what string, is func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("not within 30 s: %s", what)
		}
	}
}

func (p *plane) succeeded(jobID string) func() bool {
	return func() bool {
		j, err := p.Job(p.t.Context(), jobID)
		if err != nil {
			p.t.Fatal(err)
		}
		return j.Result == nimbus.ResultSuccess
	}
}

func living(r *simhost.Records) func() bool { return livingNow(r, 0) }

// livingNow tells of the execution that comes after so many others.
func livingNow(r *simhost.Records, before int) func() bool {
	return func() bool { e := r.Executions(); return len(e) > before && len(e[before].Live) > 0 }
}

func TestMachineRunsJobs(t *testing.T) {
	t.Parallel()
	p, r := newPlane(t), &simhost.Records{}
	m := p.machine(r)
	const jobs = 8
	for i := range jobs {
		id := p.submit(time.Duration(i) * 10 * time.Millisecond)
		defer p.await(fmt.Sprint("job ", i, " succeeds"), p.succeeded(id))
	}
	p.await("the machine is idle", func() bool { return len(r.Executions()) == jobs && m.Idle() })
	for _, e := range r.Executions() {
		if e.End != simhost.EndDone || !e.Acknowledged || len(e.Live) != 1 || !e.Live[0].To.After(e.Live[0].From) {
			t.Errorf("%+v", e)
		}
	}
}

func TestSandboxOutlivesItsAgent(t *testing.T) {
	t.Parallel()
	p, r := newPlane(t), &simhost.Records{}
	m := p.machine(r)
	id := p.submit(300 * time.Millisecond)
	p.await("the job runs", living(r))
	m.KillAgent()
	p.await("its process ends", func() bool { return r.Executions()[0].End == simhost.EndDone })
	m.Boot(t.Context())
	p.await("the job succeeds", p.succeeded(id))
	if e := r.Executions(); len(e) != 1 {
		t.Errorf("executions: %+v", e)
	}
}

func TestMachineLosesPower(t *testing.T) {
	t.Parallel()
	p, r := newPlane(t), &simhost.Records{}
	m := p.machine(r)
	done := 0 // jobs that were faster than a busy machine lost its power
	var id string
	for {
		id = p.submit(200 * time.Millisecond)
		p.await("the job runs", livingNow(r, done))
		m.LosePower()
		if r.Executions()[done].End != simhost.EndDone {
			break
		}
		m.Boot(t.Context())
		p.await("the job succeeds", p.succeeded(id))
		done++
	}
	m.Boot(t.Context())
	p.await("the job succeeds", p.succeeded(id))
	e := r.Executions()[done:]
	if len(e) != 2 || e[0].End != simhost.EndCrashed || e[1].End != simhost.EndDone {
		t.Errorf("executions: %+v", e)
	}
}

func TestPausedMachineStandsStill(t *testing.T) {
	t.Parallel()
	p, r := newPlane(t), &simhost.Records{}
	m := p.machine(r)
	const work, still = 100 * time.Millisecond, 200 * time.Millisecond // longer than the work
	done := 0                                                          // jobs that were faster than a busy machine paused
	var id string
	var paused time.Time
	for {
		id = p.submit(work)
		p.await("the job runs", livingNow(r, done))
		m.Pause()
		paused = time.Now()
		var until time.Time
		p.await("it stands still", func() bool {
			before := until
			until = r.Executions()[done].Live[0].To // which is now, for one that lives
			return until.Equal(before)
		})
		if until.Sub(r.Executions()[done].Live[0].From) < work {
			break
		}
		m.Resume()
		p.await("the job succeeds", p.succeeded(id))
		done++
	}
	time.Sleep(still)
	if e := r.Executions()[done]; e.End != simhost.EndNone {
		t.Errorf("it went on: %+v", e)
	}
	m.Resume()
	p.await("the job succeeds", p.succeeded(id))
	spans := r.Executions()[done].Live
	if len(spans) != 2 || spans[1].From.Sub(paused) < still {
		t.Errorf("it lived at %v, paused at %v", spans, paused)
	}
}
