package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	image "github.com/nimbus-ci/nimbus/images/runner"
	"github.com/nimbus-ci/nimbus/internal/forge/githubtest/protocol"
)

// officialInside tells whether this is an image of ours with GitHub's runner.
func officialInside() bool {
	inside, err := os.ReadFile(image.Inside)
	return err == nil && bytes.HasPrefix(inside, []byte("official "))
}

// becomeOfficial replaces this process by GitHub's runner, which refuses root.
// It returns only when that fails.
func becomeOfficial(jit string) error {
	if err := os.Chdir(image.OfficialDir); err != nil {
		return fmt.Errorf("start the official runner: %w", err)
	}
	if os.Geteuid() == 0 {
		groups, err := groupsOf(image.User, "/etc/group")
		if err != nil {
			return fmt.Errorf("start the official runner: %w", err)
		}
		if err := dropRoot(image.UserID, groups); err != nil {
			return fmt.Errorf("start the official runner: %w", err)
		}
	}
	return fmt.Errorf("start the official runner: %w", syscall.Exec(image.Official, []string{image.Official}, officialEnv(os.Environ(), jit)))
}

// groupsOf are the groups that a file of them lists a user in, like that of who
// may use the image's docker daemon.
func groupsOf(user, file string) ([]int, error) {
	raw, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for the groups of %s: %w", user, err)
	}
	var groups []int
	for line := range strings.Lines(string(raw)) { // NAME:PASSWORD:NUMBER:USERS
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) < 4 || !slices.Contains(strings.Split(fields[3], ","), user) {
			continue
		}
		if id, err := strconv.Atoi(fields[2]); err == nil {
			groups = append(groups, id)
		}
	}
	return groups, nil
}

func dropRoot(id int, groups []int) error {
	if err := syscall.Setgroups(append(groups, id)); err != nil {
		return fmt.Errorf("leave root's groups: %w", err)
	}
	if err := syscall.Setgid(id); err != nil {
		return fmt.Errorf("become group %d: %w", id, err)
	}
	if err := syscall.Setuid(id); err != nil {
		return fmt.Errorf("become user %d: %w", id, err)
	}
	return nil
}

// officialEnv is the environment of GitHub's runner. It takes the configuration
// out of it before it starts a job.
func officialEnv(env []string, jit string) []string {
	own := []string{
		"HOME=" + image.Home, "USER=" + image.User, "LOGNAME=" + image.User,
		"RUNNER_MANUALLY_TRAP_SIG=1",                           // so that run.sh hands SIGTERM on
		"ACTIONS_RUNNER_RETURN_VERSION_DEPRECATED_EXIT_CODE=1", // so that it tells one that is too old from another end
		protocol.EnvJITConfig + "=" + jit,
	}
	return append(without(env, own), own...)
}
