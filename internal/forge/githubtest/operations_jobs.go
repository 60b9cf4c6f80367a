package githubtest

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/nimbus-ci/nimbus/internal/forge/githubtest/protocol"
)

// jobOperations are about runs and their jobs.
func jobOperations() map[string]operation {
	return map[string]operation{
		"actions/list-workflow-runs-for-repo":        listRuns,
		"actions/get-workflow-run":                   getRun,
		"actions/list-jobs-for-workflow-run":         listJobs,
		"actions/list-jobs-for-workflow-run-attempt": listJobsOfAttempt,
		"actions/get-job-for-workflow-run":           getJob,
		"actions/download-job-logs-for-workflow-run": getJobLogs,
		"actions/cancel-workflow-run":                cancelRun,
		"actions/re-run-workflow":                    rerunAll,
		"actions/re-run-workflow-failed-jobs":        rerunFailed,
		"actions/re-run-job-for-workflow-run":        rerunJob,
	}
}

func listRuns(s *Server, r *request) (answer, error) {
	repo, err := s.repo(r)
	if err != nil {
		return answer{}, err
	}
	status := r.URL.Query().Get("status")
	var all []object
	for _, id := range slices.Backward(slices.Sorted(keys(s.runs))) {
		found := s.runs[id]
		if found.repo == repo && (status == "" || found.status() == status || found.over() && found.conclusion() == status) {
			all = append(all, s.runJSON(found))
		}
	}
	return answer{status: http.StatusOK, body: object{"total_count": len(all), "workflow_runs": some(page(r, all))}}, nil
}

// run finds the run that the path names.
func (s *Server) run(r *request) (*run, error) {
	repo, err := s.repo(r)
	if err != nil {
		return nil, err
	}
	found, ok := s.runs[r.number("run_id")]
	if !ok || found.repo != repo {
		return nil, notFound()
	}
	return found, nil
}

// job finds the job that the path names; a blocked one is not there yet.
func (s *Server) job(r *request) (*job, error) {
	repo, err := s.repo(r)
	if err != nil {
		return nil, err
	}
	found, ok := s.jobs[r.number("job_id")]
	if !ok || found.run.repo != repo || found.status == blocked {
		return nil, notFound()
	}
	return found, nil
}

func getRun(s *Server, r *request) (answer, error) {
	found, err := s.run(r)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: s.runJSON(found)}, nil
}

func listJobs(s *Server, r *request) (answer, error) {
	found, err := s.run(r)
	if err != nil {
		return answer{}, err
	}
	all := r.URL.Query().Get("filter") == "all"
	return s.jobsWhere(r, func(j *job) bool { return j.run == found && (all || slices.Contains(found.jobs, j)) }), nil
}

func listJobsOfAttempt(s *Server, r *request) (answer, error) {
	found, err := s.run(r)
	if err != nil {
		return answer{}, err
	}
	attempt := r.number("attempt_number")
	return s.jobsWhere(r, func(j *job) bool { return j.run == found && j.attempt == attempt }), nil
}

func (s *Server) jobsWhere(r *request, wanted func(*job) bool) answer {
	var all []object
	for _, id := range slices.Sorted(keys(s.jobs)) {
		if j := s.jobs[id]; j.status != blocked && wanted(j) {
			all = append(all, s.jobJSON(j))
		}
	}
	return answer{status: http.StatusOK, body: object{"total_count": len(all), "jobs": some(page(r, all))}}
}

func getJob(s *Server, r *request) (answer, error) {
	found, err := s.job(r)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: s.jobJSON(found)}, nil
}

// getJobLogs redirects to a plain text, as GitHub does.
func getJobLogs(s *Server, r *request) (answer, error) {
	found, err := s.job(r)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusFound, header: http.Header{"Location": {s.jobPage(found)}}}, nil
}

// serveLogPage is where a job's html_url leads: its log as text.
func (s *Server) serveLogPage(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j, err := s.job(&request{Request: r})
	if err != nil {
		http.Error(w, "no such job", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	fmt.Fprintf(w, "%s: %s %s\n\n%s", j.spec.Name, j.status, j.conclusion, j.log)
}

func cancelRun(s *Server, r *request) (answer, error) {
	found, err := s.run(r)
	if err != nil {
		return answer{}, err
	}
	if found.over() {
		return answer{}, &apiError{status: http.StatusConflict, message: "Cannot cancel a workflow run that is completed."}
	}
	for _, j := range found.jobs {
		s.cancel(j)
	}
	s.advance()
	return answer{status: http.StatusAccepted, body: object{}}, nil
}

func rerunAll(s *Server, r *request) (answer, error) {
	return s.rerunAs(r, func(*job) bool { return true })
}

func rerunFailed(s *Server, r *request) (answer, error) {
	return s.rerunAs(r, func(j *job) bool { return j.conclusion != protocol.Success })
}

// rerunJob begins an attempt with one job, of whichever attempt it was, and
// those that need it.
func rerunJob(s *Server, r *request) (answer, error) {
	found, err := s.job(r)
	if err != nil {
		return answer{}, err
	}
	return s.rerunOf(found.run, func(j *job) bool { return j.spec.Key == found.spec.Key && j.spec.Name == found.spec.Name })
}

func (s *Server) rerunAs(r *request, again func(*job) bool) (answer, error) {
	found, err := s.run(r)
	if err != nil {
		return answer{}, err
	}
	return s.rerunOf(found, again)
}

// GitHub's bounds of running a run again.
const (
	maxRunAttempts = 50
	maxRunAge      = 30 * 24 * time.Hour
)

func (s *Server) rerunOf(found *run, again func(*job) bool) (answer, error) {
	refuse := func(message string) (answer, error) {
		return answer{}, &apiError{status: http.StatusForbidden, message: message}
	}
	switch {
	case !found.over():
		return refuse("This workflow is already running")
	case s.now().Sub(found.createdAt) > maxRunAge:
		return refuse("Unable to retry this workflow run because it was created over a month ago")
	case found.attempt > maxRunAttempts:
		return refuse("Unable to retry this workflow run because it has been retried too many times")
	}
	s.rerun(found, again)
	return answer{status: http.StatusCreated, body: object{}}, nil
}

// rerun begins the next attempt: chosen jobs and those that need them are made
// anew, with new ids; the others keep their result. s.mu is held.
func (s *Server) rerun(r *run, again func(*job) bool) {
	r.attempt++
	redone := make([]bool, len(r.jobs)) // each job of a matrix by itself
	keys := map[string]bool{}
	for range r.jobs { // as often as a chain of needs can be long
		for i, j := range r.jobs {
			redone[i] = redone[i] || again(j) || slices.ContainsFunc(j.spec.Needs, func(n string) bool { return keys[n] })
			keys[j.spec.Key] = keys[j.spec.Key] || redone[i]
		}
	}
	for i, j := range r.jobs {
		if redone[i] {
			r.jobs[i] = s.newJob(r, j.spec)
		}
	}
	s.advance()
}
