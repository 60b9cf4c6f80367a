// Package runner is the stand-in for GitHub's runner in tests and the demo: it
// takes one job from the double of GitHub, runs its steps with bash, and ends.
//
// What job code sees is GitHub's: the GITHUB_* and RUNNER_* variables, the
// files behind GITHUB_ENV, GITHUB_OUTPUT and GITHUB_PATH, bash's flags, masks,
// the order of signals at a cancellation. What it can't do: actions other than
// actions/checkout, expressions, services, containers, shells but bash,
// artifacts and caches. It knows nothing but the standard library.
//
// Its stdout is the job's log: a line "::nimbus-step::NAME" begins a step, what
// follows is that step's output, stdout and stderr in the order written.
package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	ExitUnavailable = 69  // the server can't be reached or refused us
	ExitConfig      = 78  // no usable configuration
	ExitCancelled   = 130 // cancelled, by the server or by a signal
)

// Config is what Run needs.
type Config struct {
	JITConfig string    // the base64 text of generate-jitconfig
	Dir       string    // where the work folder is made; default the current one
	Stdout    io.Writer // the job's log
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
	return code
}

func run(ctx context.Context, cfg Config, jit protocol.Config) (int, error) {
	// Calls outlive a cancellation: the server must learn how the job ended.
	c := newClient(jit, cfg.RetryFor)
	if err := c.open(ctx); err != nil {
		return ExitUnavailable, err
	}
	defer c.close()
	job, err := c.waitForJob(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return ExitCancelled, errors.New("stopped before a job came")
		}
		return ExitUnavailable, err
	}
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
	log := newLog(cfg.Stdout, c)
	defer log.close()
	x := &execution{
		client: c, job: job, log: log, runnerName: jit.RunnerName,
		layout: newLayout(filepath.Join(dir, folderName(jit.WorkFolder)), job.Repository),
		env:    newEnvironment(cfg.Env),
	}
	conclusion := x.run(ctx)
	log.close()
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
