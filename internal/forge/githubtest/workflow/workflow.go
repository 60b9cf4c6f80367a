// Package workflow reads the part of GitHub's workflow files that the double
// runs: name, on, env, and of jobs name, runs-on, needs, if (the status
// functions), env, timeout-minutes, strategy.matrix, container and services with
// image, env, ports, volumes and options, and steps with name, run, uses, if,
// env, shell: bash, working-directory, continue-on-error and timeout-minutes.
// Everything else is refused with its line: a file that means
// more than is understood must not seem to pass.
//
// Expressions (${{ … }}) are refused too, but for matrix values and around the
// status functions of an `if`.
package workflow

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/nimbus-ci/nimbus/internal/forge/githubtest/protocol"
)

// Bounds; a file beyond one is refused.
const (
	maxFileBytes = 512 << 10
	maxJobs      = 256 // GitHub's own for a matrix
	maxServices  = 32
	maxSteps     = 1000
	maxTimeout   = 6 * 60 // minutes: GitHub's own for a job
)

// Workflow is one workflow file.
type Workflow struct {
	Name string // its path, when it has none
	Path string // ".github/workflows/ci.yml"
	Env  map[string]string
	Jobs []Job // in the file's order
}

// Job is one job; a matrix gives several with the same key.
type Job struct {
	Key            string
	Name           string
	RunsOn         []string
	Needs          []string // keys
	If             protocol.Condition
	Env            map[string]string // the workflow's, overridden by the job's
	Container      *protocol.Container
	Services       []protocol.Container
	Steps          []protocol.Step
	TimeoutMinutes int
}

// Error is a fault of a workflow file.
type Error struct {
	Path    string
	Line    int
	Message string
}

// Error is "path:line: message".
func (e *Error) Error() string { return fmt.Sprintf("%s:%d: %s", e.Path, e.Line, e.Message) }

// ReadAll reads all workflow files of a repository, in the order of their
// names.
func ReadAll(repo fs.FS) ([]Workflow, error) {
	const dir = ".github/workflows"
	entries, err := fs.ReadDir(repo, dir)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", dir, err)
	}
	var out []Workflow
	for _, entry := range entries {
		if ext := path.Ext(entry.Name()); ext != ".yml" && ext != ".yaml" {
			continue
		}
		name := path.Join(dir, entry.Name())
		b, err := fs.ReadFile(repo, name)
		if err != nil {
			return nil, fmt.Errorf("read workflow: %w", err)
		}
		w, err := Parse(name, b)
		if err != nil {
			return nil, err
		}
		out = append(out, *w)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s has no workflow files", dir)
	}
	return out, nil
}

// Parse reads one workflow file. Its errors are *Error.
func Parse(name string, content []byte) (*Workflow, error) {
	if len(content) > maxFileBytes {
		return nil, &Error{Path: name, Line: 1, Message: fmt.Sprintf("over %d bytes", maxFileBytes)}
	}
	root, err := parseYAML(name, content)
	if err != nil {
		return nil, err
	}
	r := &reader{path: name}
	w := &Workflow{Name: name, Path: name, Env: map[string]string{}}
	r.fields(root, map[string]func(node){
		"name": func(n node) { w.Name = r.text(n) },
		"on":   func(node) {}, // a push of the double's runs every workflow
		"env":  func(n node) { w.Env = r.env(n) },
		"jobs": func(n node) {
			for _, e := range r.entries(n) {
				w.Jobs = append(w.Jobs, r.job(e.key, e.value, w.Env)...)
			}
		},
	})
	r.checkJobs(root, w.Jobs)
	if r.err != nil {
		return nil, r.err
	}
	return w, nil
}

// job reads one job, or all that its matrix makes of it.
func (r *reader) job(key string, n node, workflowEnv map[string]string) []Job {
	job := Job{Key: key, Name: key, Env: map[string]string{}}
	var own map[string]string
	var matrix []variant
	r.fields(n, map[string]func(node){
		"name":            func(n node) { job.Name = r.template(n) },
		"runs-on":         func(n node) { job.RunsOn = r.list(n) },
		"needs":           func(n node) { job.Needs = r.list(n) },
		"if":              func(n node) { job.If = r.condition(n) },
		"env":             func(n node) { own = r.env(n) },
		"timeout-minutes": func(n node) { job.TimeoutMinutes = r.number(n, maxTimeout) },
		"strategy":        func(n node) { matrix = r.strategy(n) },
		"container":       func(n node) { job.Container = r.container(n) },
		"services":        func(n node) { job.Services = r.services(n) },
		"steps": func(n node) {
			for _, s := range r.items(n, maxSteps) {
				job.Steps = append(job.Steps, r.step(s))
			}
		},
	})
	for _, env := range []map[string]string{workflowEnv, own} {
		for k, v := range env {
			job.Env[k] = v
		}
	}
	if len(job.RunsOn) == 0 {
		r.failf(n, "job %q has no runs-on", key)
	}
	if len(job.Steps) == 0 {
		r.failf(n, "job %q has no steps", key)
	}
	return r.expand(n, job, matrix)
}

// step reads one step.
func (r *reader) step(n node) protocol.Step {
	var s protocol.Step
	r.fields(n, map[string]func(node){
		"name":              func(n node) { s.Name = r.template(n) },
		"id":                func(n node) { r.text(n) }, // nothing can refer to it
		"run":               func(n node) { s.Run = r.template(n) },
		"uses":              func(n node) { s.Uses = r.text(n) },
		"if":                func(n node) { s.If = r.condition(n) },
		"env":               func(n node) { s.Env = r.env(n) },
		"working-directory": func(n node) { s.WorkingDirectory = r.template(n) },
		"continue-on-error": func(n node) { s.ContinueOnError = r.boolean(n) },
		"timeout-minutes":   func(n node) { s.TimeoutMinutes = r.number(n, maxTimeout) },
		"shell": func(n node) {
			if s.Shell = r.text(n); s.Shell != "bash" {
				r.failf(n, "shell %q is not supported: the double runs bash", s.Shell)
			}
		},
	})
	if (s.Run == "") == (s.Uses == "") {
		r.failf(n, "a step has either run or uses")
	}
	if s.Name == "" {
		s.Name = defaultStepName(s)
	}
	return s
}

// defaultStepName is what GitHub calls a step without a name.
func defaultStepName(s protocol.Step) string {
	if s.Uses != "" {
		return "Run " + s.Uses
	}
	first, _, _ := strings.Cut(strings.TrimSpace(s.Run), "\n")
	return "Run " + first
}

// checkJobs finds needs that can never be met.
func (r *reader) checkJobs(root node, jobs []Job) {
	if len(jobs) == 0 {
		r.failf(root, "the workflow has no jobs")
	}
	if len(jobs) > maxJobs {
		r.failf(root, "the workflow has %d jobs, more than %d", len(jobs), maxJobs)
	}
	needs := map[string][]string{}
	for _, j := range jobs {
		needs[j.Key] = j.Needs
	}
	// Take out jobs whose needs are all taken out; what stays is a circle.
	for done := []string{}; len(done) < len(needs); {
		before := len(done)
		for _, j := range jobs {
			met := !slices.ContainsFunc(j.Needs, func(n string) bool { return !slices.Contains(done, n) })
			if met && !slices.Contains(done, j.Key) {
				done = append(done, j.Key)
			}
		}
		if len(done) > before {
			continue
		}
		for _, j := range jobs {
			for _, n := range j.Needs {
				if _, ok := needs[n]; !ok {
					r.failf(root, "job %q needs %q, which is no job", j.Key, n)
				}
			}
		}
		r.failf(root, "the needs of the jobs form a circle")
		return
	}
}
