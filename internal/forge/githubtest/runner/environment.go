package runner

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/nimbus-ci/nimbus/internal/forge/githubtest/protocol"
)

// maxCommandFile bounds what a step may write for the steps after it.
const maxCommandFile = 1 << 20

// environment is what steps see; steps may add to it for those that follow.
type environment struct {
	base map[string]string // the runner's own, then GitHub's, the job's, and what steps wrote
	own  map[string]string // the runner's own
	path []string          // put before PATH, last first
}

// newEnvironment starts from env, or from the process's environment.
func newEnvironment(env []string) *environment {
	if env == nil {
		env = os.Environ()
	}
	e := &environment{base: map[string]string{}}
	for _, kv := range env {
		if k, v, ok := strings.Cut(kv, "="); ok && k != protocol.EnvJITConfig {
			e.base[k] = v
		}
	}
	e.own = maps.Clone(e.base)
	return e
}

func (e *environment) setJob(github, job map[string]string) {
	maps.Copy(e.base, job)
	maps.Copy(e.base, github) // a workflow can't override these, as at GitHub
}

// setResults has steps find GitHub's results service, whatever the runner was
// started with and the workflow says. The official runner has actions alone find
// it; here there are none.
func (e *environment) setResults(job *protocol.Job) {
	if job.ResultsURL == "" {
		return
	}
	maps.Copy(e.base, map[string]string{
		"ACTIONS_RESULTS_URL": job.ResultsURL, "ACTIONS_RUNTIME_TOKEN": job.RuntimeToken, "ACTIONS_CACHE_SERVICE_V2": "true",
		"GITHUB_SERVER_URL": "https://github.com",
	})
}

// forStep is the environment of one step.
func (e *environment) forStep(files, step map[string]string) []string {
	all := maps.Clone(e.base)
	maps.Copy(all, step)
	maps.Copy(all, files)
	if len(e.path) > 0 {
		all["PATH"] = strings.Join(append(slices.Clone(e.path), all["PATH"]), ":")
	}
	var out []string
	for k, v := range all {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return out
}

// forContainer is the environment of one step in a container: what is the
// runner's own stays outside.
func (e *environment) forContainer(files, step map[string]string) map[string]string {
	all := maps.Clone(e.base)
	maps.DeleteFunc(all, func(k, v string) bool { own, ok := e.own[k]; return ok && own == v })
	maps.Copy(all, step)
	maps.Copy(all, files)
	return all
}

// commandFiles are the files through which a step speaks to the ones after it.
type commandFiles struct{ env, output, path, summary string }

func (c commandFiles) variables() map[string]string {
	return map[string]string{
		"GITHUB_ENV": c.env, "GITHUB_OUTPUT": c.output, "GITHUB_PATH": c.path, "GITHUB_STEP_SUMMARY": c.summary,
	}
}

// take reads what a step has written. Outputs are checked and dropped: nothing
// can refer to them without expressions.
func (e *environment) take(c commandFiles) error {
	if _, err := readPairs(c.output); err != nil {
		return fmt.Errorf("GITHUB_OUTPUT: %w", err)
	}
	pairs, err := readPairs(c.env)
	if err != nil {
		return fmt.Errorf("GITHUB_ENV: %w", err)
	}
	for k, v := range pairs {
		// GitHub's own rule: a step must not change what the runner says.
		if strings.HasPrefix(k, "GITHUB_") || strings.HasPrefix(k, "RUNNER_") || k == "NODE_OPTIONS" {
			return fmt.Errorf("GITHUB_ENV: %s can't be set", k)
		}
		e.base[k] = v
	}
	b, err := readBounded(c.path)
	if err != nil {
		return fmt.Errorf("GITHUB_PATH: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if dir := strings.TrimSpace(line); dir != "" {
			e.path = slices.Insert(e.path, 0, dir)
		}
	}
	return nil
}

// readPairs reads KEY=VALUE lines and KEY<<DELIMITER … DELIMITER blocks.
func readPairs(file string) (map[string]string, error) {
	b, err := readBounded(file)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	lines := strings.Split(strings.ReplaceAll(string(b), "\r\n", "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		if line == "" {
			continue
		}
		equals, here := strings.Index(line, "="), strings.Index(line, "<<")
		switch {
		case equals > 0 && (here < 0 || equals < here):
			out[line[:equals]] = line[equals+1:]
		case here > 0:
			end := slices.Index(lines[i+1:], line[here+2:])
			if end < 0 || line[here+2:] == "" {
				return nil, fmt.Errorf("the delimiter %q is not found again", line[here+2:])
			}
			out[line[:here]] = strings.Join(lines[i+1:i+1+end], "\n")
			i += end + 1
		default:
			return nil, fmt.Errorf("the line %.80q has no name and value", line)
		}
	}
	return out, nil
}

// readBounded reads a file that a step may have replaced by anything: only a
// plain one, never through a link or from a pipe.
func readBounded(file string) ([]byte, error) {
	info, err := os.Lstat(file)
	if err != nil {
		return nil, fmt.Errorf("the file is gone: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxCommandFile {
		return nil, fmt.Errorf("no plain file of at most %d bytes", maxCommandFile)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	return bytes.TrimPrefix(b, []byte("\ufeff")), nil
}

// layout is where a job's files are, as GitHub's runner has them:
// _work/<repo>/<repo>, _work/_temp.
type layout struct{ workspace, temp string }

func newLayout(work, repository string) layout {
	name := filepath.Base(filepath.FromSlash(repository))
	return layout{workspace: filepath.Join(work, name, name), temp: filepath.Join(work, "_temp")}
}

func (l layout) make() error {
	for _, dir := range []string{l.workspace, l.temp} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make the job's folders: %w", err)
		}
	}
	return nil
}

// commandFiles makes the empty files of one step.
func (l layout) commandFiles(step int) (commandFiles, error) {
	name := func(kind string) string { return filepath.Join(l.temp, fmt.Sprintf("%s-%d", kind, step)) }
	c := commandFiles{env: name("env"), output: name("output"), path: name("path"), summary: name("summary")}
	for _, file := range []string{c.env, c.output, c.path, c.summary} {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			return c, fmt.Errorf("make the step's files: %w", err)
		}
	}
	return c, nil
}

func runnerArch() string {
	if runtime.GOARCH == "amd64" {
		return "X64"
	}
	return strings.ToUpper(runtime.GOARCH)
}
