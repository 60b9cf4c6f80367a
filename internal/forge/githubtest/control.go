package githubtest

import (
	"fmt"
	"net/http"
	"slices"

	"github.com/nimbus-ci/nimbus/internal/forge/githubtest/protocol"
)

// Refusal makes an operation fail instead of being done.
type Refusal struct {
	Operation string // its id in the description, "" for every one
	Times     int    // how often; 0 once, -1 until Accept
	Status    int
	Message   string
	Header    http.Header // Retry-After, X-RateLimit-Remaining, …
	Done      bool        // it is done all the same, and only the answer lost
}

// PlanCalls makes plan decide about every call that no Refusal is for: nil lets
// it be done. plan is called with the double locked: it must not call it.
func (s *Server) PlanCalls(plan func(operation string) *Refusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.planCall = plan
}

// Refuse adds a refusal; earlier ones are used up first.
func (s *Server) Refuse(r Refusal) {
	if r.Times == 0 {
		r.Times = 1
	}
	if r.Message == "" {
		r.Message = http.StatusText(r.Status)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusals = append(s.refusals, &r)
}

// Accept ends all refusals.
func (s *Server) Accept() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusals = nil
}

// takeRefusal returns the refusal of an operation, nil when there is none.
func (s *Server) takeRefusal(op string) *Refusal {
	for i, r := range s.refusals {
		if r.Operation != "" && r.Operation != op {
			continue
		}
		if r.Times--; r.Times == 0 {
			s.refusals = slices.Delete(s.refusals, i, i+1)
		}
		return r
	}
	if s.planCall == nil {
		return nil
	}
	r := s.planCall(op)
	if r != nil && r.Message == "" {
		r.Message = http.StatusText(r.Status)
	}
	return r
}

// Subscribe sets the events that the App is sent.
func (s *Server) Subscribe(events ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append([]string{}, events...)
}

// Suspend suspends the installation, or ends that.
func (s *Server) Suspend(suspended bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.suspended = suspended
}

// RevokeTokens makes all access tokens that were given out bad.
func (s *Server) RevokeTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.tokens)
}

// Steal gives a queued job to a runner that is none of the double's, as when
// somebody else's runner has the same labels. FinishStolen ends it.
func (s *Server) Steal(jobID int64, runnerName string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	j, ok := s.jobs[jobID]
	if !ok || j.status != queued {
		return fmt.Errorf("job %d is not queued", jobID)
	}
	if r := s.runners[j.runnerID]; r != nil {
		r.job = nil
	}
	j.runnerID, j.runnerName, j.foreign = s.nextID(), runnerName, true
	s.start(j)
	s.advance()
	return nil
}

// FinishStolen ends a job that Steal gave away.
func (s *Server) FinishStolen(jobID int64, conclusion string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	j, ok := s.jobs[jobID]
	if !ok || !j.foreign || j.status != inProgress {
		return fmt.Errorf("job %d is not at somebody else's runner", jobID)
	}
	s.complete(j, conclusion)
	s.advance()
	return nil
}

// CancelRun cancels all jobs of a run, as the button on GitHub's page does.
func (s *Server) CancelRun(runID int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.runs[runID]
	if !ok || r.over() {
		return fmt.Errorf("run %d is not going on", runID)
	}
	for _, j := range r.jobs {
		s.cancel(j)
	}
	s.advance()
	return nil
}

// RerunFailed begins the next attempt of a run with the jobs that did not
// succeed and those that need them.
func (s *Server) RerunFailed(runID int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.runs[runID]
	if !ok || !r.over() {
		return fmt.Errorf("run %d is not over", runID)
	}
	s.rerun(r, func(j *job) bool { return j.conclusion != protocol.Success })
	return nil
}

// Runner is a registered runner as tests see it.
type Runner struct {
	ID     int64
	Name   string
	Labels []string
	Online bool
	Busy   bool
	Org    string // that it is registered with; "" for a repository
}

// Runners returns all registered runners, oldest first.
func (s *Server) Runners() []Runner {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Runner
	for _, id := range slices.Sorted(keys(s.runners)) {
		r := s.runners[id]
		out = append(out, Runner{r.id, r.name, slices.Clone(r.labels), r.session != "", r.job != nil, r.org})
	}
	return out
}

// AllJobs returns all jobs that there ever were, oldest first.
func (s *Server) AllJobs() []Job {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Job
	for _, id := range slices.Sorted(keys(s.jobs)) {
		out = append(out, s.jobs[id].public())
	}
	return out
}
