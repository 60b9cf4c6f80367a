package docker

import (
	"context"
	"slices"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"github.com/nimbus-ci/nimbus/internal/executor"
)

// Devices are what a container has of the host's hardware, for it alone: such a
// container is made for its job, none waits.
type Devices struct {
	// Named are devices that the daemon itself finds and injects, by their names
	// in the Container Device Interface.
	Named []string
	// Nodes, Mounts and Env are what a container gets where its daemon can't do
	// that. Env is the job's in both cases.
	Nodes  []container.DeviceMapping
	Mounts []mount.Mount
	Groups []string // of its processes, so that they may use the nodes
	Env    []string // KEY=VALUE
}

// CreateWith is Create of a container with devices.
func (e *Executor) CreateWith(ctx context.Context, spec executor.Spec, devices *Devices) (executor.Sandbox, error) {
	return e.create(ctx, spec, devices)
}

// Injection is whether and where from the daemon injects devices by their names:
// the folders with their descriptions, none for a daemon that can't.
func (e *Executor) Injection(ctx context.Context) (folders []string, err error) {
	info, err := e.daemon.info(ctx)
	return info.CDISpecDirs, err
}

// give puts devices into what the daemon is told.
func (d *Devices) give(c *container.Config, h *container.HostConfig, memoryMiB int) {
	if d == nil {
		return
	}
	if len(d.Named) > 0 {
		h.DeviceRequests = append(h.DeviceRequests, container.DeviceRequest{Driver: "cdi", DeviceIDs: d.Named})
	}
	h.Devices = append(h.Devices, d.Nodes...)
	h.Mounts = append(h.Mounts, d.Mounts...)
	h.GroupAdd = append(h.GroupAdd, d.Groups...)
	c.Env = slices.Concat(c.Env, d.Env)
	// Programs for such hardware hand each other large arrays by shared memory,
	// which counts as the job's.
	h.ShmSize = int64(max(memoryMiB/2, smallMiB)) << 20
}

// env is what they set for every process.
func (d *Devices) env() []string {
	if d == nil {
		return nil
	}
	return d.Env
}
