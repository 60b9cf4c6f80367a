package docker

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/moby/moby/api/types/system"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/scratch"
)

// checks remembers what was tried once and works.
type checks struct {
	mu    sync.Mutex
	slots bool
	loops error // why jobs have no disks, nil until that was tried
	tried bool
}

// Status asks the daemon, and tells what is missing to use it.
func (e *Executor) Status(ctx context.Context) nimbus.ExecutorStatus {
	s := nimbus.ExecutorStatus{Name: e.Name()}
	info, err := e.daemon.info(ctx)
	if err == nil {
		err = fit(info)
	}
	if err == nil && e.networked() {
		err = e.checkSlots(ctx)
	}
	if err != nil {
		s.Detail, s.Hint = err.Error(), nimbus.ErrorHint(err)
		return s
	}
	s.Available, s.Lacks = true, "cuda kvm" // a container has no devices
	s.Detail = fmt.Sprintf("docker %s, cgroups v%s by %s, %s", info.ServerVersion, info.CgroupVersion, info.CgroupDriver, info.Driver)
	for _, word := range e.limits(info) {
		s.Detail += "; " + word
	}
	return s
}

// fit tells why a daemon can't keep jobs apart, nil if it can.
func fit(info system.Info) error {
	rootless := has(info.SecurityOptions, "rootless")
	switch {
	case info.OSType != "linux":
		return nimbus.Errorf(nimbus.CodeUnavailable, "the docker daemon runs %s containers", info.OSType)
	case rootless && os.Geteuid() == 0:
		return nimbus.Errorf(nimbus.CodeUnavailable, "the docker daemon is rootless, and can't use what root's agent gives it").
			WithHint("run the agent as the daemon's user: jobs then have no network; or use root's daemon")
	case !has(info.SecurityOptions, "seccomp"):
		return nimbus.Errorf(nimbus.CodeUnavailable, "the docker daemon has no seccomp, which keeps jobs from much of the kernel").
			WithHint("use a kernel and a daemon that have it: docker info lists it under Security Options")
	case slices.ContainsFunc(info.SecurityOptions, func(o string) bool {
		return strings.Contains(o, "seccomp") && strings.Contains(o, "unconfined")
	}):
		return nimbus.Errorf(nimbus.CodeUnavailable, "the docker daemon runs containers without seccomp").
			WithHint("take \"seccomp-profile\": \"unconfined\" out of its configuration")
	case !info.MemoryLimit || !info.PidsLimit || !info.CPUCfsQuota:
		return nimbus.Errorf(nimbus.CodeUnavailable, "the docker daemon can't limit memory, processes and CPU").
			WithHint("it needs these controllers of cgroups; a rootless one needs cgroups v2 and systemd's delegation")
	}
	return nil
}

// has tells whether one of the daemon's options is of that name: name=seccomp,…
func has(options []string, name string) bool {
	return slices.ContainsFunc(options, func(o string) bool {
		first, _, _ := strings.Cut(o, ",")
		return strings.TrimPrefix(first, "name=") == name
	})
}

// limits are what jobs lack here.
func (e *Executor) limits(info system.Info) (words []string) {
	if !info.LiveRestoreEnabled {
		words = append(words, "a restart of the daemon ends its jobs: set live-restore")
	}
	if !e.networked() {
		words = append(words, "jobs have network:none alone: the agent is not root")
	}
	if err := e.checkLoops(); err != nil {
		words = append(words, "what jobs write counts as memory: "+err.Error())
	}
	return words
}

// checkSlots tries until it has worked once.
func (e *Executor) checkSlots(ctx context.Context) error {
	e.check.mu.Lock()
	defer e.check.mu.Unlock()
	if e.check.slots {
		return nil
	}
	if err := e.slots.Check(ctx); err != nil {
		return err
	}
	e.check.slots = true
	return nil
}

// checkLoops tells why jobs can't have disks here, nil if they can.
func (e *Executor) checkLoops() error {
	e.check.mu.Lock()
	defer e.check.mu.Unlock()
	if !e.check.tried {
		e.check.tried, e.check.loops = true, tryLoops()
	}
	return e.check.loops
}

func tryLoops() error {
	if os.Geteuid() != 0 {
		return nimbus.Errorf(nimbus.CodeUnavailable, "the agent is not root")
	}
	if _, err := os.Stat(loopControl); err != nil {
		return nimbus.Errorf(nimbus.CodeUnavailable, "there are no loop devices").WithHint("load the module: modprobe loop")
	}
	return scratch.Check()
}
