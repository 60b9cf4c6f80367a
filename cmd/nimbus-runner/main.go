// Command nimbus-runner takes one GitHub job. It gets its just-in-time
// configuration from ACTIONS_RUNNER_INPUT_JITCONFIG. With one of the double of
// GitHub it is the stand-in for GitHub's runner, in tests and the demo: it runs
// the job in ./_work and ends with the job's exit code; see
// internal/forge/githubtest/runner. With any other it becomes GitHub's own
// runner, where the image has it, or starts that where it is beside one.
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
	beside := os.Getenv(image.InContainer) != ""
	_ = os.Unsetenv(image.InContainer) // a name like any other
	if err != nil && beside && officialInside() {
		code, err := listen(jit, os.Stdout)
		if err != nil {
			fmt.Fprintf(os.Stderr, "nimbus-runner: %v\n", err)
			code = runner.ExitConfig
		}
		os.Exit(code)
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
