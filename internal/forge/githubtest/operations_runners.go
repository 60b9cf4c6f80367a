package githubtest

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/nimbus-ci/nimbus/internal/forge/githubtest/protocol"
)

const (
	maxRunners    = 10_000 // GitHub's own per group
	maxRunnerName = 64     // GitHub's own
)

// runnerOperations are about the runners of a repository.
func runnerOperations() map[string]operation {
	return map[string]operation{
		"actions/generate-runner-jitconfig-for-repo":  generateJIT,
		"actions/list-self-hosted-runners-for-repo":   listRunners,
		"actions/get-self-hosted-runner-for-repo":     getRunner,
		"actions/delete-self-hosted-runner-from-repo": deleteRunner,
	}
}

func generateJIT(s *Server, r *request) (answer, error) {
	repo, err := s.repo(r)
	if err != nil {
		return answer{}, err
	}
	var in struct {
		Name       string   `json:"name"`
		Group      int64    `json:"runner_group_id"`
		Labels     []string `json:"labels"`
		WorkFolder string   `json:"work_folder"`
	}
	if err := json.Unmarshal(r.body, &in); err != nil {
		return answer{}, &apiError{status: http.StatusUnprocessableEntity, message: "Problems parsing JSON"}
	}
	if err := s.checkNewRunner(repo, in.Name, in.Group, in.Labels); err != nil {
		return answer{}, err
	}
	if in.WorkFolder == "" {
		in.WorkFolder = "_work"
	}
	made := &runner{id: s.nextID(), name: in.Name, repo: repo, labels: in.Labels, token: rand.Text() + rand.Text()}
	address := s.cfg.RunnerURL
	if address == "" {
		address = s.url
	}
	encoded, err := protocol.Config{
		RunnerID: made.id, RunnerName: made.name, ServerURL: address, WorkFolder: in.WorkFolder, Token: made.token,
	}.Encode()
	if err != nil {
		return answer{}, err
	}
	s.runners[made.id] = made
	return answer{status: http.StatusCreated, body: object{"runner": made.json(), "encoded_jit_config": encoded}}, nil
}

// checkNewRunner refuses what GitHub refuses.
func (s *Server) checkNewRunner(repo *repository, name string, group int64, labels []string) error {
	invalid := func(format string, args ...any) error {
		return &apiError{status: http.StatusUnprocessableEntity, message: "Validation Failed: " + fmt.Sprintf(format, args...)}
	}
	if name == "" || len(name) > maxRunnerName {
		return invalid("the name has 1 to %d characters", maxRunnerName)
	}
	if group != 1 {
		return invalid("a repository has the runner group 1 only")
	}
	for i, label := range labels {
		if strings.TrimSpace(label) == "" || len(label) > 256 || slices.Contains(labels[:i], label) {
			return invalid("label %q is empty, too long or there twice", label)
		}
	}
	for _, other := range s.runners {
		if other.repo == repo && strings.EqualFold(other.name, name) {
			return &apiError{status: http.StatusConflict, message: "Already exists - A runner with the name *** already exists."}
		}
	}
	if len(s.runners) >= maxRunners {
		return &apiError{status: http.StatusForbidden, message: fmt.Sprintf("The runner group has reached max limit of %d runners", maxRunners)}
	}
	return nil
}

func listRunners(s *Server, r *request) (answer, error) {
	repo, err := s.repo(r)
	if err != nil {
		return answer{}, err
	}
	name := r.URL.Query().Get("name")
	var all []object
	for _, id := range slices.Sorted(keys(s.runners)) {
		if found := s.runners[id]; found.repo == repo && (name == "" || found.name == name) {
			all = append(all, found.json())
		}
	}
	return answer{status: http.StatusOK, body: object{"total_count": len(all), "runners": some(page(r, all))}}, nil
}

// runner finds the runner that the path names.
func (s *Server) runner(r *request) (*runner, error) {
	repo, err := s.repo(r)
	if err != nil {
		return nil, err
	}
	found, ok := s.runners[r.number("runner_id")]
	if !ok || found.repo != repo {
		return nil, notFound()
	}
	return found, nil
}

func getRunner(s *Server, r *request) (answer, error) {
	found, err := s.runner(r)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: found.json()}, nil
}

// deleteRunner refuses to remove one that has a job: that is how Nimbus learns
// that a runner it thought idle is not.
func deleteRunner(s *Server, r *request) (answer, error) {
	found, err := s.runner(r)
	if err != nil {
		return answer{}, err
	}
	if found.job != nil {
		return answer{}, &apiError{
			status:  http.StatusUnprocessableEntity,
			message: fmt.Sprintf("Bad request - Runner %q is still running a job", found.name),
		}
	}
	delete(s.runners, found.id)
	s.advance()
	return answer{status: http.StatusNoContent}, nil
}
