// Command nimbus-runner is the stand-in for GitHub's runner in tests and the
// demo. It takes its just-in-time configuration from
// ACTIONS_RUNNER_INPUT_JITCONFIG, runs one job in ./_work and ends with the
// job's exit code; see internal/forge/githubtest/runner.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/nimbus-ci/nimbus/internal/forge/githubtest/runner"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := runner.Run(ctx, runner.Config{JITConfig: runner.Getenv(), Stdout: os.Stdout, Stderr: os.Stderr})
	stop()
	os.Exit(code)
}
