package githubtest

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/nimbus-ci/nimbus/internal/forge/githubtest/apidesc"
)

const documentation = "https://docs.github.com/rest"

// request is a call of an operation.
type request struct {
	*http.Request
	body []byte
}

// answer is what an operation answers.
type answer struct {
	status int
	body   any // as JSON; nil for none
	header http.Header
}

// apiError is an answer that refuses.
type apiError struct {
	status  int
	message string
	header  http.Header
}

func (e *apiError) Error() string { return fmt.Sprintf("%d %s", e.status, e.message) }

func notFound() error { return &apiError{status: http.StatusNotFound, message: "Not Found"} }

// operation does one operation of the API; s.mu is held during it.
type operation func(s *Server, r *request) (answer, error)

// operations are those that the double has, by their ids in the description.
func operations() map[string]operation {
	all := map[string]operation{}
	for _, some := range []map[string]operation{appOperations(), manifestOperations(), checkOperations(), runnerOperations(), releaseOperations(), jobOperations(), refOperations()} {
		maps.Copy(all, some)
	}
	return all
}

// handler routes the operations that the double has, by the description's own
// paths. Any other call is a violation, not a silent 404.
func (s *Server) handler() (http.Handler, error) {
	described, err := apidesc.Operations()
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	have := operations()
	for _, op := range described {
		if do, ok := have[op.ID]; ok {
			// The name of a ref has slashes.
			mux.HandleFunc(op.Method+" "+strings.Replace(op.Path, "{ref}", "{ref...}", 1), s.serveOperation(op, do))
			delete(have, op.ID)
		}
	}
	for id := range have {
		return nil, fmt.Errorf("%s is not described", id)
	}
	s.mountRunnerProtocol(mux)
	s.mountActionsService(mux)
	mux.HandleFunc("POST /settings/apps/new", s.makeApp)
	mux.HandleFunc("POST /organizations/{org}/settings/apps/new", s.makeApp)
	mux.HandleFunc("GET /{owner}/{repo}/actions/runs/{run_id}/job/{job_id}", s.serveLogPage)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.violate(fmt.Errorf("the double does not have %s %s", r.Method, r.URL.Path))
		writeJSON(w, http.StatusNotFound, errorBody("Not Found"))
	})
	return enterprise(mux), nil
}

// enterprise also answers at the paths that a GitHub Enterprise Server has: the
// client library of scale sets knows no others for an address like ours.
func enterprise(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if path, ok := strings.CutPrefix(r.URL.Path, "/api/v3"); ok {
			r = r.Clone(r.Context())
			r.URL.Path = path
		}
		next.ServeHTTP(w, r)
	})
}

// serveOperation checks the caller and the request, does the operation, checks
// the answer and sends it.
func (s *Server) serveOperation(op apidesc.Operation, do operation) http.HandlerFunc {
	params := regexp.MustCompile(`\{(\w+)\}`).FindAllStringSubmatch(op.Path, -1)
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequestBody))
		if err != nil {
			writeJSON(w, http.StatusRequestEntityTooLarge, errorBody("request body too large"))
			return
		}
		values := map[string]string{}
		for _, p := range params {
			values[p[1]] = r.PathValue(p[1])
		}
		defer s.enter()()
		status, answerBody := s.answer(op, do, &request{r, body}, values, w.Header())
		w.WriteHeader(status)
		_, _ = w.Write(answerBody) // the caller is gone: nothing to tell it
	}
}

// answer does an operation and checks and encodes what it answers.
func (s *Server) answer(op apidesc.Operation, do operation, r *request, params map[string]string, header http.Header) (status int, body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[op.ID]++
	call, requestErr := op.CheckRequest(r.Context(), r.Request, params, r.body)
	told, err := s.charge(op.ID, op.Method, s.payerOf(op.Path))
	var a answer
	if err == nil {
		a, err = s.perform(op, do, r, requestErr)
	}
	var refused *apiError
	if errors.As(err, &refused) {
		a = answer{refused.status, errorBody(refused.message), refused.header}
	} else if err != nil {
		a = answer{status: http.StatusInternalServerError, body: errorBody(err.Error())}
	}
	if a.body != nil {
		if body, err = json.Marshal(a.body); err != nil {
			s.violate(fmt.Errorf("encode answer: %w", err))
		}
		header.Set("Content-Type", "application/json; charset=utf-8")
	}
	if r.Method == http.MethodGet && a.status == http.StatusOK {
		tag := fmt.Sprintf(`W/"%x"`, sha256.Sum256(body))
		header.Set("ETag", tag)
		if r.Header.Get("If-None-Match") == tag {
			a.status, body = http.StatusNotModified, nil
			header.Del("Content-Type")
		}
	}
	s.settle(op.ID, s.payerOf(op.Path), a.status, told)
	header.Set("Date", s.now().Format(http.TimeFormat))
	maps.Copy(header, told)
	maps.Copy(header, a.header)
	if a.status == http.StatusNotModified { // which is in no description
		return a.status, nil
	}
	if err := call.CheckResponse(r.Context(), a.status, header, body); err != nil {
		s.violate(err)
	}
	return a.status, body
}

// perform is an operation with all that may refuse it, in GitHub's order.
func (s *Server) perform(op apidesc.Operation, do operation, r *request, requestErr error) (answer, error) {
	refusal := s.takeRefusal(op.ID)
	if refusal != nil && !refusal.Done {
		return answer{}, &apiError{refusal.Status, refusal.Message, refusal.Header}
	}
	if err := s.authorize(authorityFor(op.Path), r.Request); err != nil {
		return answer{}, err
	}
	if requestErr != nil {
		s.violate(requestErr)
		return answer{}, &apiError{status: http.StatusUnprocessableEntity, message: "Validation Failed: " + requestErr.Error()}
	}
	a, err := do(s, r)
	if refusal != nil {
		return answer{}, &apiError{refusal.Status, refusal.Message, refusal.Header}
	}
	return a, err
}

func errorBody(message string) map[string]string {
	return map[string]string{"message": message, "documentation_url": documentation}
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		status, body = http.StatusInternalServerError, nil
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the caller is gone: nothing to tell it
}

// repo finds the repository that the path names.
func (s *Server) repo(r *request) (*repository, error) {
	repo, ok := s.repos[strings.ToLower(r.PathValue("owner")+"/"+r.PathValue("repo"))]
	if !ok {
		return nil, notFound()
	}
	return repo, nil
}

// number reads a number of the path; one that is none names nothing.
func (r *request) number(name string) int64 {
	n, err := strconv.ParseInt(r.PathValue(name), 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// page cuts the page that per_page and page ask for.
func page[T any](r *request, all []T) []T {
	size := atoi(r.URL.Query().Get("per_page"), 30)
	first := (max(atoi(r.URL.Query().Get("page"), 1), 1) - 1) * min(max(size, 1), 100)
	all = all[min(first, len(all)):]
	return all[:min(min(max(size, 1), 100), len(all))]
}

func atoi(s string, otherwise int) int {
	if n, err := strconv.Atoi(s); err == nil {
		return n
	}
	return otherwise
}
