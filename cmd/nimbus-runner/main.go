// Command nimbus-runner takes one GitHub job. It gets its just-in-time
// configuration from ACTIONS_RUNNER_INPUT_JITCONFIG. With one of the double of
// GitHub it is the stand-in for GitHub's runner, in tests and the demo: it runs
// the job in ./_work and ends with the job's exit code; see
// internal/forge/githubtest/runner. With any other it becomes GitHub's own
// runner, where the image has it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	image "github.com/nimbus-ci/nimbus/images/runner"
	"github.com/nimbus-ci/nimbus/internal/forge/githubtest/protocol"
	"github.com/nimbus-ci/nimbus/internal/forge/githubtest/runner"
)

func main() {
	jit := runner.Getenv()
	_, err := protocol.Decode(jit)
	if err != nil && os.Getenv(image.InContainer) != "" {
		fmt.Fprintln(os.Stderr, "nimbus-runner: GitHub's own runner is not brought into containers: take docker out of runs-on, and the job gets a microVM")
		os.Exit(runner.ExitConfig)
	}
	if err != nil && officialInside() {
		fmt.Fprintf(os.Stderr, "nimbus-runner: %v\n", becomeOfficial(jit))
		os.Exit(runner.ExitConfig)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := runner.Run(ctx, runner.Config{JITConfig: jit, Stdout: os.Stdout, Stderr: os.Stderr})
	stop()
	os.Exit(code)
}
