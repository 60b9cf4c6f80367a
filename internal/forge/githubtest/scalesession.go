package githubtest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/nimbus-ci/nimbus/internal/forge/githubtest/protocol"
)

// asListener wants the token of the scale set's session.
func asListener(do operation) operation {
	return func(s *Server, r *request) (answer, error) {
		set := s.scaleSets[r.number("set")]
		if set == nil || set.session == nil || set.session.token != bearer(r.Request) {
			return answer{}, unauthorized()
		}
		set.session.polledAt = s.now()
		return do(s, r)
	}
}

// sessionJSON has the address of the queue and the token that it takes.
func (s *Server) sessionJSON(set *scaleSet) object {
	return object{
		"sessionId": set.session.id, "ownerName": set.session.owner, "runnerScaleSet": set.json(), "statistics": s.statistics(set),
		"messageQueueUrl": s.url + "/_actions/queue/" + strconv.FormatInt(set.id, 10), "messageQueueAccessToken": set.session.token,
	}
}

func createSession(s *Server, r *request) (answer, error) {
	set, err := s.scaleSet(r)
	if err != nil {
		return answer{}, err
	}
	var in struct {
		Owner string `json:"ownerName"`
	}
	if json.Unmarshal(r.body, &in) != nil || in.Owner == "" {
		return answer{}, &exception{http.StatusBadRequest, "ArgumentException", "a session has an owner"}
	}
	if set.session != nil && s.now().Sub(set.session.polledAt) < sessionLife {
		return answer{}, &exception{http.StatusConflict, "RunnerScaleSetSessionConflictException", "the scale set has an active session of " + set.session.owner}
	}
	set.session = &queueSession{id: newGUID(), owner: in.Owner, token: rand.Text(), polledAt: s.now()}
	s.broadcast() // who listened before is refused
	return answer{status: http.StatusOK, body: s.sessionJSON(set)}, nil
}

// session is the scale set whose session the path names.
func (s *Server) session(r *request) (*scaleSet, error) {
	set, err := s.scaleSet(r)
	if err != nil {
		return nil, err
	}
	if set.session == nil || set.session.id != r.PathValue("session") {
		return nil, &exception{http.StatusNotFound, "RunnerScaleSetSessionNotFoundException", "there is no such session"}
	}
	return set, nil
}

func refreshSession(s *Server, r *request) (answer, error) {
	set, err := s.session(r)
	if err != nil {
		return answer{}, err
	}
	set.session.token, set.session.polledAt = rand.Text(), s.now()
	return answer{status: http.StatusOK, body: s.sessionJSON(set)}, nil
}

func deleteSession(s *Server, r *request) (answer, error) {
	set, err := s.session(r)
	if err != nil {
		return answer{}, err
	}
	set.session = nil
	s.broadcast()
	return answer{status: http.StatusNoContent}, nil
}

// acquireJobs gives the scale set the jobs that nobody has, within its capacity.
func acquireJobs(s *Server, r *request) (answer, error) {
	var asked []int64
	if json.Unmarshal(r.body, &asked) != nil {
		return answer{}, &exception{http.StatusBadRequest, "ArgumentException", "no list of requests"}
	}
	set := s.scaleSets[r.number("set")]
	got := []int64{}
	for _, id := range asked {
		j := s.jobs[id]
		if j == nil || j.set != set || j.status != queued || s.statistics(set)["totalAssignedJobs"].(int) >= set.capacity {
			continue
		}
		if got = append(got, id); !j.setAcquired {
			j.setAcquired = true
			set.tell(s.scaleSetJob(j, "JobAssigned"))
		}
	}
	s.advance()
	return answer{status: http.StatusOK, body: object{"count": len(got), "value": got}}, nil
}

// nextQueueMessage waits for one after lastMessageId; 202 when none came.
func nextQueueMessage(s *Server, r *request) (answer, error) {
	set := s.scaleSets[r.number("set")]
	session := set.session
	set.capacity = atoi(r.Header.Get("X-Scalesetmaxcapacity"), 0)
	last := int64(atoi(r.URL.Query().Get("lastMessageId"), 0))
	ctx, cancel := context.WithTimeout(r.Context(), pollTime)
	defer cancel()
	var next *queueMessage
	err := s.await(ctx, func() bool {
		next = set.next(last)
		return next != nil || set.session != session || s.scaleSets[set.id] != set || bearer(r.Request) != session.token
	})
	switch {
	case err != nil:
		return answer{status: http.StatusAccepted}, nil
	case next == nil:
		return answer{}, unauthorized()
	}
	body, err := json.Marshal(next.jobs)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: object{
		"messageId": next.id, "messageType": "RunnerScaleSetJobMessages", "body": string(body), "statistics": s.statistics(set),
	}}, nil
}

// next is the first message after last that was not deleted.
func (set *scaleSet) next(last int64) *queueMessage {
	if len(set.pending) > 0 {
		n := min(len(set.pending), messageJobs)
		set.lastID++
		set.messages = append(set.messages, queueMessage{set.lastID, slices.Clone(set.pending[:n])})
		set.pending = set.pending[n:]
	}
	for i := range set.messages {
		if set.messages[i].id > last {
			return &set.messages[i]
		}
	}
	return nil
}

func deleteQueueMessage(s *Server, r *request) (answer, error) {
	set := s.scaleSets[r.number("set")]
	set.messages = slices.DeleteFunc(set.messages, func(m queueMessage) bool { return m.id == r.number("message") })
	return answer{status: http.StatusNoContent}, nil
}

// statistics count the jobs of a scale set. s.mu is held.
func (s *Server) statistics(set *scaleSet) object {
	available, assigned, running, runners, busy := 0, 0, 0, 0, 0
	for _, j := range s.jobs {
		switch {
		case j.set != set || j.status == completed || j.status == blocked:
		case !j.setAcquired:
			available++
		default:
			assigned++
			if j.status == inProgress {
				running++
			}
		}
	}
	for _, r := range s.runners {
		if r.set == set {
			runners++
			if r.job != nil {
				busy++
			}
		}
	}
	return object{
		"totalAvailableJobs": available, "totalAcquiredJobs": assigned, "totalAssignedJobs": assigned, "totalRunningJobs": running,
		"totalRegisteredRunners": runners, "totalBusyRunners": busy, "totalIdleRunners": runners - busy,
	}
}

// tellScaleSet says of a change of a job in the queue of the scale set that
// serves it. s.mu is held.
func (s *Server) tellScaleSet(j *job) {
	if j.status == queued && j.set == nil {
		for _, id := range slices.Sorted(keys(s.scaleSets)) {
			if set := s.scaleSets[id]; (&runner{registry: registry{org: set.org}, labels: set.labels}).serves(j) {
				j.set = set
				set.tell(s.scaleSetJob(j, "JobAvailable"))
				return
			}
		}
	}
	if j.set == nil {
		return
	}
	switch j.status {
	case inProgress:
		j.set.tell(s.scaleSetJob(j, "JobStarted"))
	case completed:
		done := s.scaleSetJob(j, "JobCompleted")
		done["result"] = map[string]string{protocol.Success: "succeeded", protocol.Failure: "failed", protocol.Cancelled: "canceled"}[j.conclusion]
		j.set.tell(done)
	}
}

func (set *scaleSet) tell(job object) {
	set.pending, set.past = append(set.pending, job), append(set.past, job)
}

// scaleSetJob is a job as a message tells of it: without its id of REST.
func (s *Server) scaleSetJob(j *job, kind string) object {
	out := object{
		"messageType": kind, "runnerRequestId": j.id, "repositoryName": j.run.repo.name, "ownerName": j.run.repo.owner,
		"jobId": newGUID(), "jobDisplayName": j.spec.Name, "workflowRunId": j.run.id, "eventName": "push", "requestLabels": j.spec.RunsOn,
		"jobWorkflowRef": j.run.repo.fullName() + "/" + j.run.workflow.Path + "@" + j.run.ref, "queueTime": stamp(j.createdAt),
	}
	if j.runnerName != "" {
		maps.Copy(out, object{"runnerId": j.runnerID, "runnerName": j.runnerName})
	}
	return out
}

// RepeatScaleSetMessages has all scale sets say again whatever they ever said.
func (s *Server) RepeatScaleSetMessages() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, set := range s.scaleSets {
		set.pending = append(set.pending, set.past...)
	}
	s.broadcast()
}

// ExpireServiceTokens makes all tokens of the Actions service and of its
// sessions bad.
func (s *Server) ExpireServiceTokens() {
	s.ExpireSessionTokens()
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.serviceTokens)
}

// ExpireSessionTokens makes the tokens of all sessions bad; they go on, and can
// be refreshed.
func (s *Server) ExpireSessionTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, set := range s.scaleSets {
		if set.session != nil {
			set.session.token = rand.Text()
		}
	}
	s.broadcast()
}

// ScaleSets are the names of all, with how many messages wait in each.
func (s *Server) ScaleSets() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]int{}
	for _, set := range s.scaleSets {
		out[strings.ToLower(set.name)] = len(set.messages) + len(set.pending)
	}
	return out
}
