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

// runnerOperations are about the runners of a repository or an organisation.
func runnerOperations() map[string]operation {
	return map[string]operation{
		"actions/generate-runner-jitconfig-for-repo":  generateJIT,
		"actions/list-self-hosted-runners-for-repo":   listRunners,
		"actions/get-self-hosted-runner-for-repo":     getRunner,
		"actions/delete-self-hosted-runner-from-repo": deleteRunner,

		"actions/generate-runner-jitconfig-for-org":      generateJIT,
		"actions/list-self-hosted-runners-for-org":       listRunners,
		"actions/get-self-hosted-runner-for-org":         getRunner,
		"actions/delete-self-hosted-runner-from-org":     deleteRunner,
		"actions/list-self-hosted-runner-groups-for-org": listGroups,
		"actions/create-registration-token-for-org":      createRegistrationToken,
	}
}

// registry is the one that the path names.
func (s *Server) registry(r *request) (registry, error) {
	org := strings.ToLower(r.PathValue("org"))
	if org == "" {
		repo, err := s.repo(r)
		return registry{repo: repo}, err
	}
	if !s.isOrg(org) {
		return registry{}, notFound()
	}
	return registry{org: org}, nil
}

// isOrg tells whether the installation is one of an organisation: its account,
// and the owners of what was pushed. s.mu is held.
func (s *Server) isOrg(name string) bool {
	for _, r := range s.repos {
		if strings.EqualFold(r.owner, name) {
			return true
		}
	}
	return strings.EqualFold(name, account)
}

// groups are the runner groups of every organisation.
func groups() map[int64]string { return map[int64]string{1: "Default", 7: "builders"} }

func listGroups(s *Server, r *request) (answer, error) {
	if _, err := s.registry(r); err != nil {
		return answer{}, err
	}
	all := []object{}
	for _, id := range slices.Sorted(keys(groups())) {
		all = append(all, object{
			"id": id, "name": groups()[id], "visibility": "all", "default": id == 1, "inherited": false, "allows_public_repositories": true,
			"runners_url": fmt.Sprintf("%s/orgs/%s/actions/runner-groups/%d/runners", s.url, r.PathValue("org"), id),
		})
	}
	return answer{status: http.StatusOK, body: object{"total_count": len(all), "runner_groups": page(r, all)}}, nil
}

func generateJIT(s *Server, r *request) (answer, error) {
	at, err := s.registry(r)
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
	if err := s.checkNewRunner(at, in.Name, in.Group, in.Labels); err != nil {
		return answer{}, err
	}
	if in.WorkFolder == "" {
		in.WorkFolder = "_work"
	}
	made := &runner{name: in.Name, registry: at, labels: in.Labels}
	encoded, err := s.addRunner(made, in.WorkFolder)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusCreated, body: object{"runner": made.json(), "encoded_jit_config": encoded}}, nil
}

// addRunner registers a runner and returns its configuration. s.mu is held.
func (s *Server) addRunner(made *runner, workFolder string) (jit string, err error) {
	made.id, made.token = s.nextID(), rand.Text()+rand.Text()
	address := s.cfg.RunnerURL
	if address == "" {
		address = s.url
	}
	jit, err = protocol.Config{
		RunnerID: made.id, RunnerName: made.name, ServerURL: address, WorkFolder: workFolder, Token: made.token,
	}.Encode()
	if err == nil {
		s.runners[made.id] = made
	}
	return jit, err
}

// checkNewRunner refuses what GitHub refuses.
func (s *Server) checkNewRunner(at registry, name string, group int64, labels []string) error {
	invalid := func(format string, args ...any) error {
		return &apiError{status: http.StatusUnprocessableEntity, message: "Validation Failed: " + fmt.Sprintf(format, args...)}
	}
	if name == "" || len(name) > maxRunnerName {
		return invalid("the name has 1 to %d characters", maxRunnerName)
	}
	if at.org != "" && groups()[group] == "" {
		return invalid("there is no such runner group")
	}
	if at.repo != nil && group != 1 {
		return invalid("a repository has the runner group 1 only")
	}
	for i, label := range labels {
		if strings.TrimSpace(label) == "" || len(label) > 256 || slices.Contains(labels[:i], label) {
			return invalid("label %q is empty, too long or there twice", label)
		}
	}
	for _, other := range s.runners {
		if other.registry == at && strings.EqualFold(other.name, name) {
			return &apiError{status: http.StatusConflict, message: "Already exists - A runner with the name *** already exists."}
		}
	}
	if len(s.runners) >= maxRunners {
		return &apiError{status: http.StatusForbidden, message: fmt.Sprintf("The runner group has reached max limit of %d runners", maxRunners)}
	}
	return nil
}

func listRunners(s *Server, r *request) (answer, error) {
	at, err := s.registry(r)
	if err != nil {
		return answer{}, err
	}
	name := r.URL.Query().Get("name")
	var all []object
	for _, id := range slices.Sorted(keys(s.runners)) {
		if found := s.runners[id]; found.registry == at && (name == "" || found.name == name) {
			all = append(all, found.json())
		}
	}
	return answer{status: http.StatusOK, body: object{"total_count": len(all), "runners": some(page(r, all))}}, nil
}

// runner finds the runner that the path names.
func (s *Server) runner(r *request) (*runner, error) {
	at, err := s.registry(r)
	if err != nil {
		return nil, err
	}
	found, ok := s.runners[r.number("runner_id")]
	if !ok || found.registry != at {
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
