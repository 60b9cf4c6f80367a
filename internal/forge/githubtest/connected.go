package githubtest

import (
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/nimbus-ci/nimbus/internal/forge/githubtest/protocol"
)

// ErrDeregistered is what a runner is told that GitHub does not know any more.
var ErrDeregistered = errors.New("the runner registration has been deleted")

// Connected is a runner without a process: what protocol's calls would do, done
// at once, for tests with many of them and a clock of their own.
type Connected struct {
	s *Server
	r *runner
}

// Connect brings the runner of a just-in-time configuration online. A second
// one with the same is refused.
func (s *Server) Connect(jit string) (*Connected, error) {
	config, err := protocol.Decode(jit)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.runnerByToken(config.Token)
	if r == nil {
		return nil, ErrDeregistered
	}
	if r.session != "" {
		return nil, fmt.Errorf("a session for runner %s already exists", r.name)
	}
	r.session, r.onlineSince, r.polls = rand.Text(), s.now(), 1
	s.advance()
	return &Connected{s, r}, nil
}

// Job begins the job that the runner was given, and renews one that it has;
// ok is false while it has none. Once the job is over, or the runner was idle
// for too long, it is deregistered.
func (c *Connected) Job() (id int64, ok bool, err error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if c.s.runners[c.r.id] != c.r {
		return 0, false, ErrDeregistered
	}
	j := c.r.job
	if j == nil {
		c.s.dispatch()
		if j = c.r.job; j == nil {
			return 0, false, nil
		}
	}
	if !c.r.acquired {
		c.r.acquired = true
		j.acquired++
		c.s.start(j)
		c.s.advance()
	}
	j.renewedAt = c.s.now()
	return j.id, true, nil
}

// Cancelled tells whether somebody asked GitHub for the end of the runner's job.
func (c *Connected) Cancelled() bool {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return c.r.job != nil && !c.r.job.cancelledAt.IsZero()
}

// Finish ends the runner's job, and the runner with it.
func (c *Connected) Finish(conclusion string) error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if c.s.runners[c.r.id] != c.r || c.r.job == nil {
		return ErrDeregistered
	}
	c.s.complete(c.r.job, conclusion)
	c.s.advance()
	return nil
}

// Vanish ends the process without a word: GitHub notices when it stays silent.
func (c *Connected) Vanish() {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.r.polls = 0
}

// Starts is how often runners began a job, which is never more than once.
func (s *Server) Starts(jobID int64) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j := s.jobs[jobID]; j != nil {
		return j.acquired
	}
	return 0
}
