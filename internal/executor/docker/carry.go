package docker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/docker/runnerkit"
)

// carried is GitHub's runner beside a container's image, or why it is not there.
type carried struct {
	kit runnerkit.Kit
	why error
}

// carry finds GitHub's runner for a container, be it for a job of GitHub's or not:
// one that waits may get either.
func (e *Executor) carry(ctx context.Context) carried {
	if e.cfg.Runner == "" {
		return carried{why: nimbus.Errorf(nimbus.CodeNotFound, "this host has no program that takes GitHub's jobs").
			WithHint("put nimbus-runner beside nimbus, or build with: make build")}
	}
	img, err := e.cfg.Built.Open(nimbus.DefaultImage)
	if err != nil {
		return carried{why: fmt.Errorf("find GitHub's runner for containers: %w", err)}
	}
	kit, err := e.kits.Get(ctx, img)
	return carried{kit: kit, why: err}
}

// labels tell which runner a container has.
func (c carried) labels() map[string]string {
	if c.kit.Dir == "" {
		return nil
	}
	return map[string]string{labelKit: c.kit.ID()}
}

// CarryRunner implements executor.Carrier.
func (s *sandbox) CarryRunner(ctx context.Context) error {
	if s.carried.why != nil && !s.executor.cfg.StandIn {
		return &executor.ImageError{Err: s.carried.why}
	}
	for _, pair := range s.picture.env {
		if value, ok := strings.CutPrefix(pair, "LD_PRELOAD="); ok && value != "" {
			return &executor.ImageError{Err: nimbus.Errorf(nimbus.CodeInvalid, "the image sets LD_PRELOAD, which GitHub's runner can't start with").
				WithHint("take it out of the image's ENV, or run the job in a microVM: without docker in runs-on")}
		}
	}
	return s.hasShell(ctx)
}

// hasShell looks for what GitHub's runner starts each step with. The image is the
// tenant's: where its links lead, the host's own files are not.
func (s *sandbox) hasShell(ctx context.Context) error {
	const shell = "/bin/sh"
	root, err := unix.Open(filepath.Join("/proc", strconv.Itoa(s.pid), "root"), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("look into the container: %w", err)
	}
	defer unix.Close(root)
	if _, err := s.Shim.PID(ctx); err != nil { // so it was no other's
		return fmt.Errorf("the container has ended: %w", err)
	}
	file, err := unix.Openat2(root, shell, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
	if err == nil {
		defer unix.Close(file)
		var found unix.Stat_t
		if err = unix.Fstat(file, &found); err == nil && (found.Mode&unix.S_IFMT != unix.S_IFREG || found.Mode&0o111 == 0) {
			err = os.ErrPermission
		}
	}
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, os.ErrPermission):
		return &executor.ImageError{Err: nimbus.Errorf(nimbus.CodeInvalid, "the image has no %s, with which GitHub's runner starts each step", shell).
			WithHint("name an image with a shell: image:node:22-alpine and not a distroless one")}
	case err != nil:
		return fmt.Errorf("look into the container: %w", err)
	}
	return nil
}

// pruneKits removes runners that no container has, but for the one that the next
// gets.
func (e *Executor) pruneKits(ctx context.Context) error {
	if _, err := os.Stat(e.kits.Dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	keep, err := e.daemon.kits(ctx)
	if nimbus.ErrorCode(err) == nimbus.CodeUnavailable {
		return nil // nobody can tell which are in use
	}
	if err != nil {
		return err
	}
	if c := e.carry(ctx); c.why == nil {
		keep = append(keep, c.kit.ID())
	}
	return e.kits.Prune(keep)
}
