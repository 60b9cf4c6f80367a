package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus/internal/forge/githubtest/protocol"
)

// Names of the steps that GitHub puts around a job's own.
const (
	setUpStep    = "Set up job"
	openStep     = "Initialize containers"
	closeStep    = "Stop containers"
	completeStep = "Complete job"
)

// execution is one job on its way.
type execution struct {
	client     *client
	job        *protocol.Job
	log        *log
	layout     layout
	env        *environment
	runnerName string

	containers *containers // nil for none

	failed   bool
	exitCode int // of the first step that failed the job
	groups   []int
	number   int // of the current step, from 1
}

// run runs all steps and returns the job's conclusion.
func (x *execution) run(ctx context.Context) string {
	defer func() { killGroups(x.groups) }() // what steps left running ends with the job
	x.step(ctx, setUpStep, func(context.Context) (int, error) { return x.setUp() })
	if x.job.Container != nil || len(x.job.Services) > 0 {
		x.note(x.step(ctx, openStep, x.openContainers))
	}
	for _, s := range x.job.Steps {
		x.runStep(ctx, s)
	}
	if x.containers != nil {
		x.note(x.step(context.WithoutCancel(ctx), closeStep, x.containers.close))
	}
	x.step(context.WithoutCancel(ctx), completeStep, func(context.Context) (int, error) {
		_, err := fmt.Fprintln(x.log, "Cleaning up orphan processes")
		return 0, err
	})
	cause := context.Cause(ctx)
	switch {
	case errors.Is(cause, context.DeadlineExceeded):
		fmt.Fprintf(x.log, "The job has exceeded its %d minutes.\n", x.job.TimeoutMinutes)
		if x.exitCode == 0 {
			x.exitCode = 1
		}
		return protocol.Failure // GitHub cancels it; a timeout is a failure to whoever waits
	case cause != nil:
		return protocol.Cancelled
	case x.failed:
		return protocol.Failure
	}
	return protocol.Success
}

// runStep runs one step of the workflow, or skips it.
func (x *execution) runStep(ctx context.Context, s protocol.Step) {
	cancelled := ctx.Err() != nil
	if !s.If.Holds(x.failed, cancelled) {
		x.number++
		x.log.pages.skip(s.Name)
		x.client.step(protocol.StepUpdate{Number: x.number, Name: s.Name, Conclusion: protocol.Skipped})
		return
	}
	if cancelled { // an always() or cancelled() step still runs, for a while
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), 5*time.Minute)
		defer cancel()
	}
	if s.TimeoutMinutes > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(s.TimeoutMinutes)*time.Minute)
		defer cancel()
	}
	code, conclusion := x.step(ctx, s.Name, func(ctx context.Context) (int, error) {
		if s.Uses != "" {
			return x.uses(ctx, s.Uses)
		}
		return x.script(ctx, s)
	})
	if !s.ContinueOnError {
		x.note(code, conclusion)
	}
}

// note keeps that a step has failed the job.
func (x *execution) note(code int, conclusion string) {
	if conclusion != protocol.Failure {
		return
	}
	x.failed = true
	if x.exitCode == 0 {
		x.exitCode = code
	}
}

// step frames one step: its heading, its reports, its conclusion.
func (x *execution) step(ctx context.Context, name string, do func(context.Context) (int, error)) (code int, conclusion string) {
	x.number++
	x.client.step(protocol.StepUpdate{Number: x.number, Name: name})
	x.log.heading(name)
	code, err := do(ctx)
	x.log.flushLine()
	conclusion = protocol.Success
	switch {
	case ctx.Err() != nil && errors.Is(context.Cause(ctx), context.DeadlineExceeded):
		fmt.Fprintf(x.log, "##[error]The step %q has timed out.\n", name)
		code, conclusion = max(code, 1), protocol.Failure
	case ctx.Err() != nil:
		fmt.Fprint(x.log, "##[error]The operation was canceled.\n")
		conclusion = protocol.Cancelled
	case err != nil:
		fmt.Fprintf(x.log, "##[error]%v\n", err)
		code, conclusion = max(code, 1), protocol.Failure
	case code != 0:
		fmt.Fprintf(x.log, "##[error]Process completed with exit code %d.\n", code)
		conclusion = protocol.Failure
	}
	x.client.step(protocol.StepUpdate{Number: x.number, Name: name, Conclusion: conclusion})
	return code, conclusion
}

// setUp makes the folders and the environment.
func (x *execution) setUp() (int, error) {
	fmt.Fprintf(x.log, "Runner %s, version %s (stand-in)\n", x.runnerName, Version)
	fmt.Fprintf(x.log, "Job %s of %s, run %d attempt %d, commit %s\n", x.job.Name, x.job.Repository, x.job.RunID, x.job.RunAttempt, x.job.SHA)
	if err := x.layout.make(); err != nil {
		return 1, err
	}
	owner, _, _ := strings.Cut(x.job.Repository, "/")
	x.env.setJob(map[string]string{
		"CI":                 "true",
		"GITHUB_ACTIONS":     "true",
		"GITHUB_ACTOR":       x.job.Actor,
		"GITHUB_EVENT_NAME":  x.job.EventName,
		"GITHUB_JOB":         x.job.Key,
		"GITHUB_REF":         x.job.Ref,
		"GITHUB_REF_NAME":    path.Base(x.job.Ref),
		"GITHUB_REPOSITORY":  x.job.Repository,
		"GITHUB_RUN_ATTEMPT": fmt.Sprint(x.job.RunAttempt),
		"GITHUB_RUN_ID":      fmt.Sprint(x.job.RunID),
		"GITHUB_RUN_NUMBER":  fmt.Sprint(x.job.RunNumber),
		"GITHUB_SHA":         x.job.SHA,
		"GITHUB_WORKFLOW":    x.job.Workflow,
		"GITHUB_WORKSPACE":   x.layout.workspace,
		"GITHUB_ACTION_PATH": "",

		"GITHUB_REPOSITORY_OWNER": owner,

		"RUNNER_ARCH": runnerArch(),
		"RUNNER_NAME": x.runnerName,
		"RUNNER_OS":   "Linux",
		"RUNNER_TEMP": x.layout.temp,
	}, x.job.Env)
	x.env.setResults(x.job)
	return 0, nil
}

// uses runs the one action that is known.
func (x *execution) uses(ctx context.Context, action string) (int, error) {
	name, _, _ := strings.Cut(action, "@")
	if name != "actions/checkout" {
		return 1, fmt.Errorf("the action %s is not supported by the stand-in runner: it knows actions/checkout", action)
	}
	archive, err := x.client.workspace(ctx)
	if err != nil {
		return 1, err
	}
	defer archive.Close()
	files, err := unpack(archive, x.layout.workspace)
	if err != nil {
		return 1, fmt.Errorf("unpack the repository: %w", err)
	}
	fmt.Fprintf(x.log, "Unpacked %d files of %s at %s\n", files, x.job.Repository, x.job.SHA)
	return 0, nil
}

// script runs a step's script as GitHub does: bash -e by default, or sh -e where
// there is no bash, with pipefail too where the workflow says shell: bash.
func (x *execution) script(ctx context.Context, s protocol.Step) (int, error) {
	file := filepath.Join(x.layout.temp, fmt.Sprintf("step-%d.sh", x.number))
	if err := os.WriteFile(file, []byte(s.Run+"\n"), 0o600); err != nil {
		return 1, fmt.Errorf("write the script: %w", err)
	}
	defer os.Remove(file)
	shell, args := "bash", []string{"-e", file}
	if _, err := exec.LookPath(shell); err != nil && s.Shell == "" {
		shell = "sh"
	}
	if s.Shell == "bash" {
		args = []string{"--noprofile", "--norc", "-eo", "pipefail", file}
	}
	dir := x.layout.workspace
	if s.WorkingDirectory != "" {
		dir = s.WorkingDirectory
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(x.layout.workspace, dir)
		}
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return 1, fmt.Errorf("the working-directory %s is no folder", dir)
	}
	commands, err := x.layout.commandFiles(x.number)
	if err != nil {
		return 1, err
	}
	var code, group int
	if x.containers.holdsSteps() {
		code, group, err = x.containers.script(ctx, x, s, file, dir, commands)
	} else {
		code, group, err = runShell(ctx, shell, args, dir, x.env.forStep(commands.variables(), s.Env), x.log)
	}
	if group > 0 {
		x.groups = append(x.groups, group)
	}
	if err != nil {
		return max(code, 1), err
	}
	if err := x.env.take(commands); err != nil {
		return max(code, 1), err
	}
	return code, nil
}
