// Package protocol is what the stand-in runner and the double of GitHub say to
// each other. It is our own: GitHub's is not documented, and the official
// runner can't talk to the double, nor the stand-in runner to GitHub.
//
// What is like GitHub's is the shape of a runner's life, because Nimbus
// depends on it: a just-in-time configuration that is a base64 JSON object of
// base64 files and good for one runner; one session per runner, a second one
// is a conflict; long polls for messages; a job that has to be acquired and
// then renewed; a runner that is deregistered after its one job.
//
// All calls go below the configuration's server address, with its token as
// bearer; bodies are JSON unless noted:
//
//	POST   /_runner/sessions                      Hello → 201 Session · 401 registration deleted · 403 the version is too old · 409 a session exists
//	GET    /_runner/sessions/{s}/message          → 200 Message · 204 nothing yet: poll again
//	DELETE /_runner/sessions/{s}                  → 204
//	POST   /_runner/sessions/{s}/acquire          → 200 Job · 409 not assigned to this runner
//	GET    /_runner/sessions/{s}/workspace        → 200 tar.gz of the repository at the job's commit
//	POST   /_runner/sessions/{s}/renew            → 204 · 410 the job is over
//	POST   /_runner/sessions/{s}/step             StepUpdate → 204 · 410
//	POST   /_runner/sessions/{s}/log?offset=N     raw bytes → 204; what lies before the log's end is skipped, so a retry is safe
//	POST   /_runner/sessions/{s}/finish           Finish → 204 · 410
package protocol

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
)

// EnvJITConfig is the variable in which a runner finds its configuration. It
// is a secret: never on a command line.
const EnvJITConfig = "ACTIONS_RUNNER_INPUT_JITCONFIG"

// StepPrefix begins a line of a runner's copy of its log that begins a step;
// the step's name follows.
const StepPrefix = "::nimbus-step::"

// Conclusions of jobs and steps.
const (
	Success   = "success"
	Failure   = "failure"
	Cancelled = "cancelled"
	Skipped   = "skipped"
	TimedOut  = "timed_out"
)

// Config is a decoded just-in-time configuration.
type Config struct {
	RunnerID   int64
	RunnerName string
	ServerURL  string // what all calls go to
	WorkFolder string
	Token      string // secret
}

// runnerFile and credentialsFile are the files of a configuration that matter,
// with the official runner's names and keys.
type runnerFile struct {
	AgentID    int64  `json:"agentId"`
	AgentName  string `json:"agentName"`
	ServerURL  string `json:"serverUrl"`
	WorkFolder string `json:"workFolder"`
	Ephemeral  bool   `json:"ephemeral"`
}

type credentialsFile struct {
	Scheme string            `json:"scheme"`
	Data   map[string]string `json:"data"`
}

// Encode makes the base64 text that generate-jitconfig returns.
func (c Config) Encode() (string, error) {
	files := map[string]any{
		".runner":      runnerFile{c.RunnerID, c.RunnerName, c.ServerURL, c.WorkFolder, true},
		".credentials": credentialsFile{Scheme: "Bearer", Data: map[string]string{"token": c.Token}},
	}
	out := map[string][]byte{} // JSON has []byte as base64
	for name, content := range files {
		b, err := json.Marshal(content)
		if err != nil {
			return "", fmt.Errorf("encode %s: %w", name, err)
		}
		out[name] = b
	}
	b, err := json.Marshal(out)
	if err != nil {
		return "", fmt.Errorf("encode configuration: %w", err)
	}
	return base64.StdEncoding.EncodeToString(b), nil
}

// Decode is the inverse of Encode. Its errors never repeat the input.
func Decode(encoded string) (Config, error) {
	b, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return Config{}, fmt.Errorf("the just-in-time configuration is no base64")
	}
	var files map[string][]byte
	var runner runnerFile
	var credentials credentialsFile
	if json.Unmarshal(b, &files) != nil || json.Unmarshal(files[".runner"], &runner) != nil ||
		json.Unmarshal(files[".credentials"], &credentials) != nil {
		return Config{}, fmt.Errorf("the just-in-time configuration has no .runner and .credentials files")
	}
	c := Config{
		RunnerID: runner.AgentID, RunnerName: runner.AgentName, ServerURL: runner.ServerURL,
		WorkFolder: runner.WorkFolder, Token: credentials.Data["token"],
	}
	if c.ServerURL == "" || c.Token == "" {
		return Config{}, fmt.Errorf("the just-in-time configuration is not one of the double of GitHub: the stand-in runner can't talk to others")
	}
	return c, nil
}

// Hello opens a session.
type Hello struct {
	Version string `json:"version"`
	OS      string `json:"os"`
}

// Session is an open session.
type Session struct {
	ID string `json:"id"`
}

// MessageKind is what a message asks for.
type MessageKind string

// The kinds.
const (
	MessageJob    MessageKind = "job"    // a job is assigned: acquire it
	MessageCancel MessageKind = "cancel" // end the job that runs as cancelled
)

// Message is the answer to a poll.
type Message struct {
	Kind MessageKind `json:"kind"`
}

// Job is everything that a runner needs for its job.
type Job struct {
	ID             int64             `json:"id"`
	Key            string            `json:"key"` // its name in the workflow file
	Name           string            `json:"name"`
	Workflow       string            `json:"workflow"`
	RunID          int64             `json:"run_id"`
	RunNumber      int64             `json:"run_number"`
	RunAttempt     int64             `json:"run_attempt"`
	Repository     string            `json:"repository"` // owner/name
	SHA            string            `json:"sha"`
	Ref            string            `json:"ref"`
	EventName      string            `json:"event_name"`
	Actor          string            `json:"actor"`
	Env            map[string]string `json:"env"`
	Container      *Container        `json:"container,omitempty"` // that steps run in, nil for none
	Services       []Container       `json:"services,omitempty"`  // that run beside them
	Steps          []Step            `json:"steps"`
	TimeoutMinutes int               `json:"timeout_minutes"` // 0 for none
	RenewSeconds   int               `json:"renew_seconds"`   // renew at least this often
	// ResultsURL is where actions find GitHub's results service, "" for nowhere, and
	// RuntimeToken what they call it with.
	ResultsURL   string `json:"results_url,omitempty"`
	RuntimeToken string `json:"runtime_token,omitempty"`
}

// Container is what a job's steps run in, or a service beside them.
type Container struct {
	Alias   string            `json:"alias,omitempty"` // of a service: its name in the network
	Image   string            `json:"image"`
	Env     map[string]string `json:"env,omitempty"`
	Ports   []string          `json:"ports,omitempty"`   // as docker has them
	Volumes []string          `json:"volumes,omitempty"` // as docker has them
	Options []string          `json:"options,omitempty"` // of docker create, in words
}

// Step is one step of a job: a script, or an action by its name.
type Step struct {
	Name             string            `json:"name"`
	If               Condition         `json:"if"`
	Run              string            `json:"run,omitempty"`
	Uses             string            `json:"uses,omitempty"`
	Shell            string            `json:"shell,omitempty"`
	WorkingDirectory string            `json:"working_directory,omitempty"`
	Env              map[string]string `json:"env,omitempty"`
	ContinueOnError  bool              `json:"continue_on_error,omitempty"`
	TimeoutMinutes   int               `json:"timeout_minutes,omitempty"`
}

// StepUpdate tells that a step began (no conclusion) or ended. Numbers are
// GitHub's: 1 sets the job up, the workflow's steps follow.
type StepUpdate struct {
	Number     int    `json:"number"`
	Name       string `json:"name"`
	Conclusion string `json:"conclusion,omitempty"`
}

// Finish ends a job.
type Finish struct {
	Conclusion string `json:"conclusion"`
}

// Condition is an `if`: one of the status functions, "" for success().
type Condition string

// Conditions are all that are understood.
func Conditions() []Condition {
	return []Condition{"success()", "failure()", "always()", "cancelled()", "!cancelled()", "!failure()"}
}

// Holds evaluates the condition over what came before.
func (c Condition) Holds(failed, cancelled bool) bool {
	switch c {
	case "always()":
		return true
	case "failure()":
		return failed && !cancelled
	case "cancelled()":
		return cancelled
	case "!cancelled()":
		return !cancelled
	case "!failure()":
		return !failed && !cancelled
	}
	return !failed && !cancelled
}
