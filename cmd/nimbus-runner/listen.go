package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	image "github.com/nimbus-ci/nimbus/images/runner"
	"github.com/nimbus-ci/nimbus/internal/forge/githubtest/protocol"
)

// Exit codes of GitHub's listener that its run.sh knows.
const (
	listenerDone       = 0
	listenerTerminated = 1
	listenerRetryable  = 2
	listenerUpdating   = 3
	listenerUpdated    = 4
	listenerConflict   = 5
	listenerDeprecated = 7
)

// listenAgain is how long run.sh waits.
const listenAgain = 5 * time.Second

// listen does what GitHub's run.sh does, for an image that may have no bash: it
// starts the listener, again where that asks for it, and says in the same words
// how it ended. Like run.sh it ends with 0 where the words say all.
func listen(jit string, out io.Writer) (int, error) {
	if err := os.Chdir(image.OfficialDir); err != nil {
		return 0, fmt.Errorf("start the official runner: %w", err)
	}
	told := make(chan os.Signal, 1)
	signal.Notify(told, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(told)
	for {
		code, err := listenOnce(jit, told)
		if err != nil {
			return 0, err
		}
		words, again := listenerWords(code)
		fmt.Fprintln(out, words)
		switch {
		case !again && strings.HasPrefix(words, unknownCode):
			return code, nil
		case !again:
			return 0, nil
		}
		select {
		case <-time.After(listenAgain):
		case <-told:
			return 0, nil
		}
	}
}

// listenOnce starts the listener and hands on to it that it is to end.
func listenOnce(jit string, told <-chan os.Signal) (int, error) {
	cmd := exec.Command(image.Listener, "run")
	cmd.Env = besideEnv(os.Environ(), jit)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// It has no life of its own: what it had begun ends with the sandbox.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start the official runner: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case <-told:
			_ = cmd.Process.Signal(os.Interrupt) // ended already is fine
		case err := <-ended:
			if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
				return 0, fmt.Errorf("wait for the official runner: %w", err)
			}
			return cmd.ProcessState.ExitCode(), nil
		}
	}
}

const unknownCode = "Exiting with unknown error code: "

// listenerWords are those of run.sh for an exit code, and whether it starts the
// listener again. An update is none here: its programs are read-only.
func listenerWords(code int) (words string, again bool) {
	switch code {
	case listenerDone:
		return "Runner listener exit with 0 return code, stop the service, no retry needed.", false
	case listenerTerminated:
		return "Runner listener exit with terminated error, stop the service, no retry needed.", false
	case listenerRetryable:
		return "Runner listener exit with retryable error, re-launch runner in 5 seconds.", true
	case listenerUpdating, listenerUpdated:
		return "Runner listener exit because of updating, which a runner beside an image can't.", false
	case listenerConflict:
		return "Runner listener exit with Session Conflict error, stop the service, no retry needed.", false
	case listenerDeprecated:
		return "Runner listener exit with deprecated version exit code: 7.", false
	}
	return fmt.Sprint(unknownCode, code), false
}

// besideEnv is the environment of GitHub's runner beside an image, which may know
// no user but root.
func besideEnv(env []string, jit string) []string {
	own := []string{
		"RUNNER_ALLOW_RUNASROOT=1",
		"ACTIONS_RUNNER_RETURN_VERSION_DEPRECATED_EXIT_CODE=1",
		protocol.EnvJITConfig + "=" + jit,
	}
	return append(without(env, own), own...)
}

// without are the variables that others don't set.
func without(env, others []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(kept string) bool {
		name, _, _ := strings.Cut(kept, "=")
		return slices.ContainsFunc(others, func(v string) bool { return strings.HasPrefix(v, name+"=") })
	})
}
