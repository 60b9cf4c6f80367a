package githubtest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
)

// checkOperations are about check runs, which an App shows at a commit.
func checkOperations() map[string]operation {
	return map[string]operation{"checks/create": createCheck, "checks/update": updateCheck}
}

// CheckRun is a check run as a person sees it.
type CheckRun struct {
	ID                   int64
	Repo                 string // owner/name
	Name, HeadSHA        string
	Conclusion           string
	Title, Summary, Link string
}

// CheckRuns returns all check runs, oldest first.
func (s *Server) CheckRuns() []CheckRun {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []CheckRun
	for _, id := range slices.Sorted(maps.Keys(s.checks)) {
		out = append(out, *s.checks[id])
	}
	return out
}

// checkFields are what a call says of a check run. Nil leaves it as it is.
type checkFields struct {
	Name       *string `json:"name"`
	HeadSHA    *string `json:"head_sha"`
	Status     *string `json:"status"`
	Conclusion *string `json:"conclusion"`
	DetailsURL *string `json:"details_url"`
	Output     *struct {
		Title   string `json:"title"`
		Summary string `json:"summary"`
	} `json:"output"`
}

func createCheck(s *Server, r *request) (answer, error) {
	c := &CheckRun{ID: s.nextID()}
	if err := s.changeCheck(r, c); err != nil {
		return answer{}, err
	}
	if c.Name == "" || c.HeadSHA == "" {
		return answer{}, &apiError{status: http.StatusUnprocessableEntity, message: "Invalid request: name and head_sha are needed"}
	}
	s.checks[c.ID] = c
	return answer{status: http.StatusCreated, body: s.checkJSON(c)}, nil
}

func updateCheck(s *Server, r *request) (answer, error) {
	c, ok := s.checks[r.number("check_run_id")]
	if !ok {
		return answer{}, notFound()
	}
	if err := s.changeCheck(r, c); err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: s.checkJSON(c)}, nil
}

// changeCheck takes what a call says; an App without the permission may not.
func (s *Server) changeCheck(r *request, c *CheckRun) error {
	repo, err := s.repo(r)
	if err != nil {
		return err
	}
	if s.granted["checks"] != "write" {
		return &apiError{status: http.StatusForbidden, message: "Resource not accessible by integration"}
	}
	var f checkFields
	if err := json.Unmarshal(r.body, &f); err != nil {
		return &apiError{status: http.StatusBadRequest, message: fmt.Sprint("Problems parsing JSON: ", err)}
	}
	c.Repo = repo.fullName()
	for to, from := range map[*string]*string{&c.Name: f.Name, &c.HeadSHA: f.HeadSHA, &c.Conclusion: f.Conclusion, &c.Link: f.DetailsURL} {
		if from != nil {
			*to = *from
		}
	}
	if f.Output != nil {
		c.Title, c.Summary = f.Output.Title, f.Output.Summary
	}
	return nil
}

func (s *Server) checkJSON(c *CheckRun) object {
	base := s.url + "/repos/" + c.Repo + "/check-runs/" + fmt.Sprint(c.ID)
	return object{
		"id": c.ID, "node_id": nodeID("CheckRun", c.ID), "head_sha": c.HeadSHA, "name": c.Name, "external_id": "",
		"url": base, "html_url": s.url + "/" + c.Repo + "/runs/" + fmt.Sprint(c.ID), "details_url": c.Link,
		"status": "completed", "conclusion": c.Conclusion, "started_at": stamp(s.now()), "completed_at": stamp(s.now()),
		"check_suite": object{"id": 1}, "app": s.appJSON(), "pull_requests": []object{},
		"output": object{"title": c.Title, "summary": c.Summary, "text": nil, "annotations_count": 0, "annotations_url": base + "/annotations"},
	}
}
