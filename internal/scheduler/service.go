package scheduler

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/bus"
)

// Config is how the scheduler behaves. The zero value is a good default.
type Config struct {
	// AllowTrustedLocal lets webhook jobs and other orgs' jobs run on the local
	// executor, which isolates no better than namespaces do. What is submitted
	// in the default org always may.
	AllowTrustedLocal bool
	// StaleAfter is the age from which a queued event is not believed before
	// GitHub was asked. Default 10 min.
	StaleAfter time.Duration
	// QueueTimeout is how long a job may wait to be accepted that doesn't say so
	// itself. Default 24 h, GitHub's own.
	QueueTimeout time.Duration
	// StartTimeout is how long an accepted native job may take until its
	// process runs. Default 15 min.
	StartTimeout time.Duration
	// CompletedGrace is how long a sandbox may go on after GitHub said that its
	// job is over. Default 15 s.
	CompletedGrace time.Duration
	// MaxAttempts is how often a job is given to a host before it fails
	// because none ever got it to begin. Default nimbus.DefaultMaxAttempts.
	MaxAttempts int
	// Window is how many jobs of a class are queued for hosts to claim; the
	// rest stays in the backlog, where their order is still open. Default 64.
	Window int
	// AffinityWait is how long a queued job is kept for a host that has a
	// sandbox of its class ready and is not asking just now, when others are.
	// Default 200 ms; below 0 it is kept for nobody.
	AffinityWait time.Duration
	// PublicURL is where people reach the dashboard, for links; "" where that
	// is not known.
	PublicURL string
	// Lead runs work while this replica leads, again each time that it does,
	// until its context ends. Nil where there is one replica alone.
	Lead func(ctx context.Context, work func(context.Context))
	// Observer hears what was committed. Nil for nobody.
	Observer Observer
}

// withDefaults returns a copy with every field set.
func (c Config) withDefaults() Config {
	c.StaleAfter = cmp.Or(c.StaleAfter, 10*time.Minute)
	c.QueueTimeout = cmp.Or(c.QueueTimeout, 24*time.Hour)
	c.StartTimeout = cmp.Or(c.StartTimeout, 15*time.Minute)
	c.CompletedGrace = cmp.Or(c.CompletedGrace, 15*time.Second)
	c.MaxAttempts = cmp.Or(c.MaxAttempts, nimbus.DefaultMaxAttempts)
	c.Window = cmp.Or(c.Window, 64)
	c.AffinityWait = cmp.Or(c.AffinityWait, 200*time.Millisecond)
	return c
}

// Service schedules jobs. All methods may be called concurrently; errors are
// *nimbus.Error where a caller can do something about them.
type Service struct {
	cfg    Config
	store  Store
	bus    bus.Bus
	forge  Forge
	checks CheckRuns // nil where forge shows none
	pacer  Pacer     // forge, where it is one
	reruns Rerunner  // likewise
	tokens JobTokens
	log    *slog.Logger

	fleet   *fleet
	crowded *crowded
	running runningJobs
	gather  *gatherer // of what changes jobs
	beats   *heartbeats
	claims  *claims
}

// New returns a service. Its Run must run for leases to expire. forge may be
// nil where no forge is connected: then no delivery may be processed.
func New(cfg Config, store Store, b bus.Bus, forge Forge, tokens JobTokens, log *slog.Logger) *Service {
	s := &Service{cfg: cfg.withDefaults(), store: store, bus: b, forge: forge, tokens: tokens, log: log, fleet: newFleet(), crowded: &crowded{classes: map[string]bool{}}}
	s.checks, _ = forge.(CheckRuns)
	s.pacer, _ = forge.(Pacer)
	s.reruns, _ = forge.(Rerunner)
	s.gather = &gatherer{run: s.share}
	s.beats = newHeartbeats(s)
	s.claims = newClaims(s)
	return s
}

// Name implements lifecycle.Service.
func (s *Service) Name() string { return "scheduler" }

// actors in the history of a job.
const (
	actorSystem = "system"
	actorGitHub = "github"
)

func actorHost(hostID string) string { return "host:" + hostID }

// unit is one operation in a transaction of the service. What others have to
// be told is kept until it is committed.
type unit struct {
	*batch
	messages []message
	atEnd    func() error // once all operations of the transaction have run
}

type message struct {
	topic   string
	payload string
}

// update runs f in a transaction of its own, and then tells the bus what came
// of it.
func (s *Service) update(ctx context.Context, f func(*unit) error) error {
	op := &operation{do: func(_ context.Context, u *unit) error { return f(u) }}
	return s.together(ctx, []*operation{op})
}

// publish sends a message once, after the commit.
func (u *unit) publish(topic, payload string) {
	m := message{topic, payload}
	for _, before := range u.messages {
		if before == m {
			return
		}
	}
	u.messages = append(u.messages, m)
}

// changed tells those who watch an org's jobs.
func (u *unit) changed(j *JobRecord) { u.publish(bus.JobsTopic(j.OrgID), j.ID) }

// move brings a job to another state, and sets how long it may stay there.
func (u *unit) move(ctx context.Context, j *JobRecord, m Move) error {
	switch m.To {
	case nimbus.StateQueued, nimbus.StatePending, nimbus.StateUnschedulable:
		if j.State.Live() || j.DueAt.IsZero() { // waiting begins anew
			j.DueAt = u.now.Add(u.cfg.queueTimeout(j))
		}
	case nimbus.StateAccepted:
		if j.Source == nimbus.SourceNative {
			j.DueAt = u.now.Add(u.cfg.StartTimeout)
		}
	case nimbus.StateRunning:
		j.DueAt = u.now.Add(runTimeout(j) + runGrace)
		j.CheckAt, j.Checks = time.Time{}, 0
	}
	if m.To == nimbus.StateFinished || m.To == nimbus.StatePending || m.To == nimbus.StateUnschedulable {
		if err := u.giveBack(ctx, j, m.To); err != nil {
			return err
		}
	}
	from := j.State
	if err := u.MoveJob(ctx, j, m); err != nil {
		return err
	}
	if err := u.noticed(ctx, j, from, m); err != nil {
		return err
	}
	if err := u.lost(ctx, j, from, m); err != nil {
		return err
	}
	u.tally.moved(j, from, m, u.now)
	u.changed(j)
	if m.To == nimbus.StateQueued {
		u.publish(bus.TopicQueue, "")
	}
	return nil
}

// finish ends a job. Its attempt is not touched.
func (u *unit) finish(ctx context.Context, j *JobRecord, e Ending, actor string) error {
	return u.move(ctx, j, Move{To: nimbus.StateFinished, Result: e.Result, Reason: e.Reason, Actor: actor})
}

// note adds to a job's history what is no change of its state.
func (u *unit) note(ctx context.Context, j *JobRecord, kind, attemptID, actor, detail string) error {
	u.changed(j)
	return u.AddEvent(ctx, j, nimbus.JobEvent{Kind: kind, AttemptID: attemptID, Actor: actor, Detail: detail})
}
