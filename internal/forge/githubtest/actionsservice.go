package githubtest

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// The Actions service keeps scale sets. GitHub does not describe it; what the
// double has is what github.com/actions/scaleset calls, and a test has that
// library try it.

const (
	serviceTokenLife = 30 * time.Minute
	sessionLife      = 2 * time.Minute // of a session that nobody polls
	messageJobs      = 50              // GitHub says no more of them at once
)

// scaleSet is a runner scale set with its queue.
type scaleSet struct {
	id, group int64
	org, name string
	labels    []string
	session   *queueSession
	pending   []object // that are not in a message yet
	past      []object // all that there ever were
	messages  []queueMessage
	lastID    int64
	capacity  int
}

// queueSession is who listens.
type queueSession struct {
	id, owner, token string
	polledAt         time.Time
}

type queueMessage struct {
	id   int64
	jobs []object
}

// mountActionsService serves what the library calls.
func (s *Server) mountActionsService(mux *http.ServeMux) {
	const sets, queue = "/_actions/_apis/runtime/runnerscalesets", "/_actions/queue/{set}"
	mux.HandleFunc("POST /actions/runner-registration", s.inService("service/register", registerService))
	for pattern, do := range map[string]serviceOperation{
		"GET " + sets:                                  {"service/list-scale-sets", listScaleSets},
		"POST " + sets:                                 {"service/create-scale-set", saveScaleSet},
		"GET " + sets + "/{set}":                       {"service/get-scale-set", getScaleSet},
		"PATCH " + sets + "/{set}":                     {"service/update-scale-set", saveScaleSet},
		"DELETE " + sets + "/{set}":                    {"service/delete-scale-set", deleteScaleSet},
		"POST " + sets + "/{set}/generatejitconfig":    {"service/generate-jitconfig", scaleSetJIT},
		"POST " + sets + "/{set}/sessions":             {"service/create-session", createSession},
		"PATCH " + sets + "/{set}/sessions/{session}":  {"service/refresh-session", refreshSession},
		"DELETE " + sets + "/{set}/sessions/{session}": {"service/delete-session", deleteSession},
	} {
		mux.HandleFunc(pattern, s.inService(do.name, asAdmin(do.do)))
	}
	mux.HandleFunc("POST "+sets+"/{set}/acquirejobs", s.inService("service/acquire-jobs", asListener(acquireJobs)))
	mux.HandleFunc("GET "+queue, s.inService("service/next-message", asListener(nextQueueMessage)))
	mux.HandleFunc("DELETE "+queue+"/{message}", s.inService("service/delete-message", asListener(deleteQueueMessage)))
}

type serviceOperation struct {
	name string
	do   operation
}

// exception is a refusal of the service's.
type exception struct {
	status int
	name   string
	says   string
}

func (e *exception) Error() string { return e.says }

func unauthorized() error {
	return &exception{http.StatusUnauthorized, "UnauthorizedException", "the token is expired"}
}

// inService does a call of the service; refusals and counts are those of REST.
func (s *Server) inService(name string, do operation) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequestBody))
		if err != nil {
			writeJSON(w, http.StatusRequestEntityTooLarge, errorBody("request body too large"))
			return
		}
		a, err := s.callService(name, do, &request{r, body})
		var refused *exception
		var planned *apiError
		switch {
		case errors.As(err, &refused):
			writeJSON(w, refused.status, object{"typeName": "GitHub.DistributedTask.WebApi." + refused.name, "message": refused.says})
		case errors.As(err, &planned):
			for name, values := range planned.header {
				w.Header()[name] = values
			}
			writeJSON(w, planned.status, errorBody(planned.message))
		case err != nil:
			writeJSON(w, http.StatusInternalServerError, errorBody(err.Error()))
		case a.body == nil:
			w.WriteHeader(a.status)
		default:
			writeJSON(w, a.status, a.body)
		}
	}
}

func (s *Server) callService(name string, do operation, r *request) (answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[name]++
	refusal := s.takeRefusal(name)
	refused := func() error { return &apiError{refusal.Status, refusal.Message, refusal.Header} }
	if refusal != nil && !refusal.Done {
		return answer{}, refused()
	}
	a, err := do(s, r)
	if refusal != nil {
		return answer{}, refused()
	}
	return a, err
}

func createRegistrationToken(s *Server, r *request) (answer, error) {
	at, err := s.registry(r)
	if err != nil {
		return answer{}, err
	}
	token := rand.Text()
	s.registers[token] = at.org
	return answer{status: http.StatusCreated, body: object{"token": token, "expires_at": stamp(s.now().Add(time.Hour))}}, nil
}

// registerService trades a registration token for a token of the service.
func registerService(s *Server, r *request) (answer, error) {
	org, ok := s.registers[strings.TrimPrefix(r.Header.Get("Authorization"), "RemoteAuth ")]
	var in struct {
		URL   string `json:"url"`
		Event string `json:"runner_event"`
	}
	if !ok || json.Unmarshal(r.body, &in) != nil || in.Event != "register" || !strings.EqualFold(in.URL, s.url+"/"+org) {
		return answer{}, unauthorized()
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.RegisteredClaims{
		ID: rand.Text(), ExpiresAt: jwt.NewNumericDate(s.now().Add(serviceTokenLife)),
	}).SignedString(s.cfg.Key)
	if err != nil {
		return answer{}, fmt.Errorf("sign: %w", err)
	}
	s.serviceTokens[token] = org
	return answer{status: http.StatusOK, body: object{"url": s.url + "/_actions", "token": token}}, nil
}

// asAdmin wants a token of the service.
func asAdmin(do operation) operation {
	return func(s *Server, r *request) (answer, error) {
		if s.serviceTokens[bearer(r.Request)] == "" {
			return answer{}, unauthorized()
		}
		return do(s, r)
	}
}

// scaleSet is the one that the path names.
func (s *Server) scaleSet(r *request) (*scaleSet, error) {
	set := s.scaleSets[r.number("set")]
	if set == nil || bearer(r.Request) != "" && s.serviceTokens[bearer(r.Request)] != "" && s.serviceTokens[bearer(r.Request)] != set.org {
		return nil, &exception{http.StatusNotFound, "RunnerScaleSetNotFoundException", "there is no such scale set"}
	}
	return set, nil
}

func (set *scaleSet) json() object {
	labels := []object{}
	for _, l := range set.labels {
		labels = append(labels, object{"type": "System", "name": l})
	}
	return object{"id": set.id, "name": set.name, "runnerGroupId": set.group, "runnerGroupName": groups()[set.group], "labels": labels}
}

func listScaleSets(s *Server, r *request) (answer, error) {
	found := []object{}
	for _, id := range slices.Sorted(keys(s.scaleSets)) {
		set := s.scaleSets[id]
		if set.org == s.serviceTokens[bearer(r.Request)] && set.name == r.URL.Query().Get("name") && strconv.FormatInt(set.group, 10) == r.URL.Query().Get("runnerGroupId") {
			found = append(found, set.json())
		}
	}
	return answer{status: http.StatusOK, body: object{"count": len(found), "value": found}}, nil
}

func getScaleSet(s *Server, r *request) (answer, error) {
	set, err := s.scaleSet(r)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: set.json()}, nil
}

func saveScaleSet(s *Server, r *request) (answer, error) {
	var in struct {
		Name   string `json:"name"`
		Group  int64  `json:"runnerGroupId"`
		Labels []struct {
			Name string `json:"name"`
		} `json:"labels"`
	}
	if json.Unmarshal(r.body, &in) != nil || in.Name == "" || groups()[in.Group] == "" || len(in.Labels) == 0 {
		return answer{}, &exception{http.StatusBadRequest, "ArgumentException", "a scale set has a name, a runner group and labels"}
	}
	set := &scaleSet{id: s.nextID(), org: s.serviceTokens[bearer(r.Request)]}
	if r.Method == http.MethodPatch {
		var err error
		if set, err = s.scaleSet(r); err != nil {
			return answer{}, err
		}
	}
	set.name, set.group, set.labels = in.Name, in.Group, nil
	for _, l := range in.Labels {
		set.labels = append(set.labels, l.Name)
	}
	s.scaleSets[set.id] = set
	return answer{status: http.StatusOK, body: set.json()}, nil
}

func deleteScaleSet(s *Server, r *request) (answer, error) {
	set, err := s.scaleSet(r)
	if err != nil {
		return answer{}, err
	}
	delete(s.scaleSets, set.id)
	for _, j := range s.jobs {
		if j.set == set && j.status == queued {
			j.set, j.setAcquired = nil, false
		}
	}
	s.advance()
	return answer{status: http.StatusNoContent}, nil
}

func scaleSetJIT(s *Server, r *request) (answer, error) {
	set, err := s.scaleSet(r)
	if err != nil {
		return answer{}, err
	}
	var in struct {
		Name       string `json:"name"`
		WorkFolder string `json:"workFolder"`
	}
	at := registry{org: set.org}
	if json.Unmarshal(r.body, &in) != nil {
		return answer{}, &exception{http.StatusBadRequest, "ArgumentException", "no runner settings"}
	}
	if err := s.checkNewRunner(at, in.Name, set.group, set.labels); err != nil {
		var refused *apiError
		if errors.As(err, &refused) && refused.status == http.StatusConflict {
			return answer{}, &exception{http.StatusConflict, "TaskAgentExistsException", "the runner exists"}
		}
		return answer{}, err
	}
	made := &runner{name: in.Name, registry: at, set: set, labels: set.labels}
	jit, err := s.addRunner(made, in.WorkFolder)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: object{
		"runner": object{"id": made.id, "name": made.name, "runnerScaleSetId": set.id}, "encodedJITConfig": jit,
	}}, nil
}
