package forge

import (
	"encoding/json"
	"net/url"
	"strings"
	"time"
	"unicode"

	nimbus "github.com/nimbus-ci/nimbus"
)

// Bounds of what is kept of an event. Text that a person wrote is cut at them;
// names that are used in calls and labels that decide placement are refused
// beyond them, because a cut one would mean something else.
const (
	maxTextBytes = 512  // job, workflow and branch names: cut
	maxURLBytes  = 2048 // longer links are left out
	maxNameBytes = 100  // GitHub's own for owners and repositories: refused
)

// jobFields is what is read of a job, in a workflow_job body and in an answer
// of the API alike. Unknown fields are ignored and missing ones allowed:
// payloads gain and lose fields over the years and between GitHub.com and
// Enterprise Server.
type jobFields struct {
	ID           int64     `json:"id"`
	RunID        int64     `json:"run_id"`
	RunAttempt   int64     `json:"run_attempt"`
	Name         string    `json:"name"`
	WorkflowName string    `json:"workflow_name"`
	HeadBranch   string    `json:"head_branch"`
	HeadSHA      string    `json:"head_sha"`
	HTMLURL      string    `json:"html_url"`
	Status       string    `json:"status"`
	Conclusion   string    `json:"conclusion"`
	Labels       []string  `json:"labels"`
	RunnerID     int64     `json:"runner_id"`
	RunnerName   string    `json:"runner_name"`
	CreatedAt    timestamp `json:"created_at"`
	StartedAt    timestamp `json:"started_at"`
	CompletedAt  timestamp `json:"completed_at"`
}

// workflowJob is what is read of a workflow_job body.
type workflowJob struct {
	envelope
	WorkflowJob *jobFields `json:"workflow_job"`
	Repository  struct {
		Name  string `json:"name"`
		Owner struct {
			Login string `json:"login"`
		} `json:"owner"`
	} `json:"repository"`
}

// envelope is what is read of every body.
type envelope struct {
	Action       string `json:"action"`
	Installation struct {
		ID int64 `json:"id"`
	} `json:"installation"`
}

// timestamp is a time that may be absent, null or of a form unknown to us:
// then it is zero. No decision rests on it alone.
type timestamp struct{ time.Time }

// UnmarshalJSON never fails.
func (t *timestamp) UnmarshalJSON(b []byte) error {
	text := strings.Trim(string(b), `"`)
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		t.Time = at.UTC()
	}
	return nil
}

// ParseWorkflowJob reads the body of a workflow_job delivery. It returns nil
// without an error for a status that means nothing to Nimbus, and a
// *nimbus.Error with CodeInvalid for a body that is not what GitHub sends.
func ParseWorkflowJob(body []byte) (*nimbus.ForgeEvent, error) {
	var in workflowJob
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "the body is no workflow_job event: %w", err)
	}
	return in.forgeEvent()
}

func (in *workflowJob) forgeEvent() (*nimbus.ForgeEvent, error) {
	if in.WorkflowJob == nil {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "the event has no workflow_job")
	}
	ev, err := in.WorkflowJob.event(in.Repository.Owner.Login, in.Repository.Name)
	if err != nil || ev == nil {
		return nil, err
	}
	ev.Job.InstallationID = max(in.Installation.ID, 0)
	// At an environment's gate GitHub sends action queued with status waiting.
	ev.Demand = in.Action == "queued" && ev.Status == nimbus.ForgeQueued
	return ev, nil
}

// event checks and bounds the fields of a job in the given repository. It
// returns nil without an error for a status that means nothing to Nimbus.
func (f *jobFields) event(owner, repo string) (*nimbus.ForgeEvent, error) {
	if f.ID <= 0 || f.RunID <= 0 {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "the job has no positive id and run_id")
	}
	if err := checkRepository(owner, repo); err != nil {
		return nil, err
	}
	labels, err := checkLabels(f.Labels)
	if err != nil {
		return nil, err
	}
	status := forgeStatus(f.Status)
	if status == "" {
		return nil, nil
	}
	ev := &nimbus.ForgeEvent{
		Status: status,
		Job: nimbus.GitHubJob{
			Owner:        owner,
			Repo:         repo,
			JobID:        f.ID,
			RunID:        f.RunID,
			RunAttempt:   max(f.RunAttempt, 1), // absent in old payloads
			WorkflowName: text(f.WorkflowName),
			HeadBranch:   text(f.HeadBranch),
			HeadSHA:      commit(f.HeadSHA),
			HTMLURL:      link(f.HTMLURL),
		},
		Name:      text(f.Name),
		Labels:    labels,
		CreatedAt: f.CreatedAt.Time,
		StartedAt: f.StartedAt.Time,
	}
	if status.Rank() >= nimbus.ForgeInProgress.Rank() {
		// Before that no runner has it, whatever some fixtures fill in.
		ev.RunnerID, ev.RunnerName = max(f.RunnerID, 0), text(f.RunnerName)
	}
	if status == nimbus.ForgeCompleted {
		ev.Conclusion, ev.CompletedAt = text(f.Conclusion), f.CompletedAt.Time
	}
	return ev, nil
}

// forgeStatus maps GitHub's words; "" for one that means nothing to Nimbus.
func forgeStatus(s string) nimbus.ForgeStatus {
	switch s {
	case "queued":
		return nimbus.ForgeQueued
	case "in_progress":
		return nimbus.ForgeInProgress
	case "completed":
		return nimbus.ForgeCompleted
	case "waiting", "requested", "pending": // a gate, or a concurrency group
		return nimbus.ForgeWaiting
	}
	return ""
}

// checkRepository keeps owner and name to the characters that GitHub allows:
// they become parts of URLs.
func checkRepository(owner, repo string) error {
	for _, name := range []string{owner, repo} {
		plain := strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == ""
		if !plain || name == "" || name == "." || name == ".." || len(name) > maxNameBytes {
			return nimbus.Errorf(nimbus.CodeInvalid, "the repository %.100q/%.100q is not named as GitHub names them", owner, repo)
		}
	}
	return nil
}

func checkLabels(in []string) ([]string, error) {
	if len(in) > nimbus.MaxLabels {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "the job has %d labels, more than %d", len(in), nimbus.MaxLabels)
	}
	out := make([]string, 0, len(in))
	for _, label := range in {
		if len(label) > nimbus.MaxLabelBytes {
			return nil, nimbus.Errorf(nimbus.CodeInvalid, "a label of the job has %d bytes, more than %d", len(label), nimbus.MaxLabelBytes)
		}
		out = append(out, printable(label))
	}
	return out, nil
}

// text makes what a person wrote safe to keep and show: no control characters
// (PostgreSQL refuses NUL, terminals obey the others), cut at maxTextBytes.
func text(s string) string {
	if len(s) > maxTextBytes {
		s = strings.ToValidUTF8(s[:maxTextBytes], "")
	}
	return printable(s)
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}

// commit returns s when it is a SHA-1 or SHA-256 in hex, "" otherwise.
func commit(s string) string {
	if len(s) != 40 && len(s) != 64 || strings.Trim(s, "0123456789abcdef") != "" {
		return ""
	}
	return s
}

// link returns s when it is a plain web address, "" otherwise: the page makes
// a link of it, and a javascript: one would run there.
func link(s string) string {
	u, err := url.Parse(s)
	if err != nil || len(s) > maxURLBytes || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return ""
	}
	return u.String()
}
