package githubtest

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/nimbus-ci/nimbus/internal/forge/githubtest/protocol"
)

// mountRunnerProtocol serves what protocol describes.
func (s *Server) mountRunnerProtocol(mux *http.ServeMux) {
	const session = "/_runner/sessions/{session}"
	mux.HandleFunc("POST /_runner/sessions", s.asRunner(s.openSession))
	mux.HandleFunc("DELETE "+session, s.inSession(s.closeSession))
	mux.HandleFunc("GET "+session+"/message", s.inSession(s.nextMessage))
	mux.HandleFunc("POST "+session+"/acquire", s.inSession(s.acquire))
	mux.HandleFunc("GET "+session+"/workspace", s.withJob(s.workspace))
	mux.HandleFunc("POST "+session+"/renew", s.withJob(s.renew))
	mux.HandleFunc("POST "+session+"/step", s.withJob(s.updateStep))
	mux.HandleFunc("POST "+session+"/log", s.withJob(s.extendLog))
	mux.HandleFunc("POST "+session+"/finish", s.withJob(s.finish))
}

// runnerCall is a call of a runner: what it gets and what it answers. A nil
// answer is 204. s.mu is held.
type runnerCall func(r *request, who *runner) (any, error)

// asRunner finds the runner by its credential. A runner that is deregistered
// has none: what it sends is refused with 401, and 410 once it had a job.
func (s *Server) asRunner(do runnerCall) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxLogRequest))
		if err != nil {
			writeJSON(w, http.StatusRequestEntityTooLarge, errorBody("body too large"))
			return
		}
		out, err := s.callRunner(do, &request{r, body})
		// Not locked any more: a runner that reads slowly holds up nobody.
		var refused *apiError
		switch archive, isArchive := out.([]byte); {
		case errors.As(err, &refused):
			writeJSON(w, refused.status, errorBody(refused.message))
		case err != nil:
			writeJSON(w, http.StatusBadRequest, errorBody(err.Error()))
		case isArchive:
			w.Header().Set("Content-Type", "application/gzip")
			_, _ = w.Write(archive) // the runner is gone: nothing to tell it
		case out == nil:
			w.WriteHeader(http.StatusNoContent)
		default:
			writeJSON(w, http.StatusOK, out)
		}
	}
}

func (s *Server) callRunner(do runnerCall, r *request) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	who := s.runnerByToken(bearer(r.Request))
	if who == nil {
		return nil, &apiError{status: http.StatusUnauthorized, message: "the runner registration has been deleted"}
	}
	return do(r, who)
}

func bearer(r *http.Request) string {
	return strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
}

func (s *Server) runnerByToken(token string) *runner {
	for _, r := range s.runners {
		if subtle.ConstantTimeCompare([]byte(r.token), []byte(token)) == 1 {
			return r
		}
	}
	return nil
}

// inSession also wants the runner's open session.
func (s *Server) inSession(do runnerCall) http.HandlerFunc {
	return s.asRunner(func(r *request, who *runner) (any, error) {
		if who.session == "" || who.session != r.PathValue("session") {
			return nil, &apiError{status: http.StatusNotFound, message: "no such session"}
		}
		return do(r, who)
	})
}

// withJob also wants an acquired job. Its end is told with 410; a runner whose
// job was ended without it is deregistered by then and gets that from here too.
func (s *Server) withJob(do runnerCall) http.HandlerFunc {
	handler := s.inSession(func(r *request, who *runner) (any, error) {
		if who.job == nil || !who.acquired || who.job.status != inProgress {
			return nil, &apiError{status: http.StatusGone, message: "the job is over"}
		}
		return do(r, who)
	})
	return func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		gone := s.runnerByToken(bearer(r)) == nil
		s.mu.Unlock()
		if gone {
			writeJSON(w, http.StatusGone, errorBody("the job is over and its runner deregistered"))
			return
		}
		handler(w, r)
	}
}

// openSession takes one session per runner: a configuration that is used twice
// is a conflict.
func (s *Server) openSession(r *request, who *runner) (any, error) {
	var hello protocol.Hello
	if err := json.Unmarshal(r.body, &hello); err != nil {
		return nil, &apiError{status: http.StatusBadRequest, message: "no Hello"}
	}
	if err := s.deprecated(hello.Version); err != nil {
		return nil, err
	}
	if who.session != "" {
		return nil, &apiError{status: http.StatusConflict, message: "a session for this runner already exists"}
	}
	who.session, who.onlineSince, who.version = rand.Text(), s.now(), hello.Version
	s.broadcast()
	return protocol.Session{ID: who.session}, nil
}

// closeSession ends an ephemeral runner's only session: it is deregistered. A
// job that it still has fails at once instead of when its lease ends.
func (s *Server) closeSession(_ *request, who *runner) (any, error) {
	if j := who.job; j != nil && who.acquired {
		s.complete(j, protocol.Failure)
	} else if j != nil {
		j.runnerID, j.runnerName = 0, ""
	}
	delete(s.runners, who.id)
	s.advance()
	return nil, nil
}

// nextMessage waits for a message to this runner.
func (s *Server) nextMessage(r *request, who *runner) (any, error) {
	who.polls++
	defer func() { who.polls-- }()
	s.dispatch()
	ctx, cancel := context.WithTimeout(r.Context(), pollTime)
	defer cancel()
	var m protocol.Message
	err := s.await(ctx, func() bool {
		if s.runners[who.id] != who {
			return true
		}
		switch j := who.job; {
		case j == nil:
		case !who.acquired:
			m.Kind = protocol.MessageJob
		case !j.cancelledAt.IsZero() && !j.cancelTold:
			m.Kind, j.cancelTold = protocol.MessageCancel, true
		}
		return m.Kind != ""
	})
	switch {
	case err != nil:
		return nil, nil // nothing yet
	case m.Kind == "":
		return nil, &apiError{status: http.StatusUnauthorized, message: "the runner registration has been deleted"}
	}
	return m, nil
}

// acquire begins the assigned job. It may be repeated by the runner that has
// it; nobody else can get a job in progress.
func (s *Server) acquire(_ *request, who *runner) (any, error) {
	j := who.job
	if j == nil || j.runnerID != who.id || j.status == completed {
		return nil, &apiError{status: http.StatusConflict, message: "no job is assigned to this runner"}
	}
	if !who.acquired {
		who.acquired = true
		j.acquired++
		s.start(j)
		s.advance()
	}
	return protocol.Job{
		ID: j.id, Key: j.spec.Key, Name: j.spec.Name, Workflow: j.run.workflow.Name, RunID: j.run.id, RunNumber: j.run.number,
		RunAttempt: j.attempt, Repository: j.run.repo.fullName(), SHA: j.run.sha, Ref: j.run.ref, EventName: j.run.origin.Event, Actor: "octocat",
		Env: j.spec.Env, Container: j.spec.Container, Services: j.spec.Services, Steps: j.spec.Steps, TimeoutMinutes: j.spec.TimeoutMinutes,
		RenewSeconds: max(int(s.cfg.JobLease.Seconds()/10), 1), ResultsURL: s.cfg.ResultsURL, RuntimeToken: RuntimeToken(j.id),
	}, nil
}

func (s *Server) workspace(_ *request, who *runner) (any, error) { return who.job.run.archive, nil }

func (s *Server) renew(_ *request, who *runner) (any, error) {
	who.job.renewedAt = s.now()
	return nil, nil
}

// maxSteps bounds what a runner may report.
const maxSteps = 2000

func (s *Server) updateStep(r *request, who *runner) (any, error) {
	var u protocol.StepUpdate
	if err := json.Unmarshal(r.body, &u); err != nil || u.Number < 1 || u.Number > maxSteps {
		return nil, &apiError{status: http.StatusBadRequest, message: "no StepUpdate"}
	}
	j := who.job
	j.renewedAt = s.now()
	for len(j.steps) < u.Number {
		j.steps = append(j.steps, step{number: len(j.steps) + 1, status: queued})
	}
	st := &j.steps[u.Number-1]
	st.name, st.status = u.Name, inProgress
	if st.startedAt.IsZero() {
		st.startedAt = s.now()
	}
	if u.Conclusion != "" {
		st.status, st.conclusion, st.completedAt = completed, u.Conclusion, s.now()
	}
	s.broadcast()
	return nil, nil
}

// extendLog appends what is new of a piece of the log.
func (s *Server) extendLog(r *request, who *runner) (any, error) {
	offset, err := strconv.ParseInt(r.URL.Query().Get("offset"), 10, 64)
	j := who.job
	have := int64(len(j.log))
	if err != nil || offset < 0 || offset > have && have < maxLogBytes {
		return nil, &apiError{status: http.StatusBadRequest, message: "the log has " + strconv.FormatInt(have, 10) + " bytes"}
	}
	j.renewedAt = s.now()
	if skip := have - offset; skip >= 0 && skip < int64(len(r.body)) {
		j.appendLog(r.body[skip:])
		s.broadcast()
	}
	return nil, nil
}

func (s *Server) finish(r *request, who *runner) (any, error) {
	var f protocol.Finish
	if err := json.Unmarshal(r.body, &f); err != nil {
		return nil, &apiError{status: http.StatusBadRequest, message: "no Finish"}
	}
	switch f.Conclusion {
	case protocol.Success, protocol.Failure, protocol.Cancelled:
	default:
		return nil, &apiError{status: http.StatusBadRequest, message: "no conclusion of a job"}
	}
	s.complete(who.job, f.Conclusion)
	s.advance()
	return nil, nil
}

// RuntimeToken is what the actions of a job call GitHub's results service with: in
// the form that clients read, and signed by nobody.
func RuntimeToken(jobID int64) string {
	part := func(format string, args ...any) string {
		return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, format, args...))
	}
	const year2100 = 4102444800
	return part(`{"alg":"none"}`) + "." + part(
		`{"ac":"[{\"Scope\":\"refs/heads/main\",\"Permission\":3}]","nbf":0,"exp":%d,"scp":"Actions.Results:1:%d"}`, year2100, jobID) + ".githubs"
}
