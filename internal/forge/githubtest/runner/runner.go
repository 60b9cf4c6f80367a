// Package runner is the stand-in for GitHub's runner in tests and the demo: it
// takes one job from the double of GitHub, runs its steps with bash, and ends.
//
// What job code sees is GitHub's: the GITHUB_* and RUNNER_* variables, the
// files behind GITHUB_ENV, GITHUB_OUTPUT and GITHUB_PATH, bash's flags, masks,
// the order of signals at a cancellation, and what is asked of docker for
// services and a job's container. What it can't do: actions other than
// actions/checkout, expressions, shells but bash, artifacts and caches. It knows
// nothing but the standard library.
//
// Its stdout is what the official runner says there: that it listens, which job
// it runs, how it ended, as run.sh would say it. The job's log is in the pages
// of its diagnostics folder, in the official format.
package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/nimbus-ci/nimbus/internal/forge/githubtest/protocol"
)

// Version is what the runner calls itself.
const Version = "1.0.0-standin"

// Exit codes of its own; otherwise it ends with the code of the first step
// that failed the job, or 0. They are sysexits.h's, to stand apart from what
// scripts usually use.
const (
	ExitDeprecated  = 7   // the official runner's own: its version is too old
	ExitUnavailable = 69  // the server can't be reached or refused us
	ExitConfig      = 78  // no usable configuration
	ExitCancelled   = 130 // cancelled, by the server or by a signal
)

// Config is what Run needs.
type Config struct {
	Version   string    // what it says it is; default Version
	JITConfig string    // the base64 text of generate-jitconfig
	Dir       string    // where the work and diagnostics folders are made; default the current one
	Stdout    io.Writer // what the runner says
	Log       io.Writer // a copy of the job's log, a line "::nimbus-step::NAME" before each step; nil for none
	Stderr    io.Writer // the runner's own troubles
	Env       []string  // of the steps, before what the job adds; default the process's without the configuration
	// RetryFor is how long a call is tried again over network errors and 5xx;
	// default a minute.
	RetryFor time.Duration
}

// Run takes one job, runs it and returns the exit code. When ctx ends, the job
// is cancelled: its processes are told, then killed, and the server learns it.
func Run(ctx context.Context, cfg Config) int {
	if cfg.Dir == "" {
		cfg.Dir = "."
	}
	if cfg.Version == "" {
		cfg.Version = Version
	}
	if cfg.RetryFor <= 0 {
		cfg.RetryFor = time.Minute
	}
	jit, err := protocol.Decode(cfg.JITConfig)
	if err != nil {
		fmt.Fprintf(cfg.Stderr, "nimbus-runner: %v\n", err)
		return ExitConfig
	}
	code, err := run(ctx, cfg, jit)
	if err != nil {
		fmt.Fprintf(cfg.Stderr, "nimbus-runner: %v\n", err)
	}
	fmt.Fprintf(cfg.Stdout, "Runner listener exit with %s\nExiting runner...\n", listenerEnd(err))
	return code
}

// listenerEnd is what run.sh says about the end of the official listener.
func listenerEnd(err error) string {
	var refused *statusError
	switch {
	case err == nil || errors.Is(err, errStopped):
		return "0 return code, stop the service, no retry needed."
	case errors.As(err, &refused) && refused.status == http.StatusConflict:
		return "Session Conflict error, stop the service, no retry needed."
	case isDeprecated(err):
		return fmt.Sprintf("deprecated version exit code: %d.", ExitDeprecated)
	}
	return "terminated error, stop the service, no retry needed."
}

// isDeprecated tells whether the server does not take the runner's version.
func isDeprecated(err error) bool {
	var refused *statusError
	return errors.As(err, &refused) && refused.status == http.StatusForbidden
}

// errStopped says that the runner was told to end before it had a job.
var errStopped = errors.New("stopped before a job came")

// say writes a line as the official listener does.
func say(w io.Writer, format string, args ...any) {
	fmt.Fprintf(w, time.Now().UTC().Format("2006-01-02 15:04:05Z")+": "+format+"\n", args...)
}

func run(ctx context.Context, cfg Config, jit protocol.Config) (int, error) {
	// Calls outlive a cancellation: the server must learn how the job ended.
	c := newClient(jit, cfg.RetryFor)
	switch err := c.open(ctx, cfg.Version); {
	case isDeprecated(err):
		return ExitDeprecated, err
	case err != nil:
		return ExitUnavailable, err
	}
	defer c.close()
	say(cfg.Stdout, "Listening for Jobs")
	job, err := c.waitForJob(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return ExitCancelled, errStopped
		}
		return ExitUnavailable, err
	}
	say(cfg.Stdout, "Running job: %s", job.Name)
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return ExitUnavailable, fmt.Errorf("find the work folder: %w", err)
	}
	ctx, stopWatch := c.watch(ctx, time.Duration(job.RenewSeconds)*time.Second)
	defer stopWatch()
	if job.TimeoutMinutes > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(job.TimeoutMinutes)*time.Minute)
		defer cancel()
	}
	pages, err := newDiagnostics(dir)
	if err != nil {
		return ExitUnavailable, err
	}
	defer pages.close()
	log := newLog(pages, cfg.Log, c)
	defer log.close()
	x := &execution{
		client: c, job: job, log: log, runnerName: jit.RunnerName,
		layout: newLayout(filepath.Join(dir, folderName(jit.WorkFolder)), job.Repository),
		env:    newEnvironment(cfg.Env),
	}
	conclusion := x.run(ctx)
	log.close()
	pages.close() // the official runner has uploaded everything before it says that the job is over
	say(cfg.Stdout, "Job %s completed with result: %s", job.Name, result(conclusion))
	if err := c.finish(conclusion); err != nil && !errors.Is(err, errOver) {
		return ExitUnavailable, err
	}
	switch conclusion {
	case protocol.Success:
		return 0, nil
	case protocol.Cancelled:
		return ExitCancelled, nil
	}
	return x.exitCode, nil
}

// result is a conclusion in the official runner's words.
func result(conclusion string) string {
	switch conclusion {
	case protocol.Success:
		return "Succeeded"
	case protocol.Cancelled:
		return "Canceled"
	}
	return "Failed"
}

// folderName keeps the work folder below the runner's own.
func folderName(s string) string {
	if s == "" || !filepath.IsLocal(s) {
		return "_work"
	}
	return s
}

// Getenv reads the configuration out of the environment and removes it there,
// so that no process of the job inherits it.
func Getenv() string {
	jit := os.Getenv(protocol.EnvJITConfig)
	_ = os.Unsetenv(protocol.EnvJITConfig) // fails for malformed names only
	return jit
}
