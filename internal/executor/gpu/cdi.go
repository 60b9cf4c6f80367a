package gpu

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	specs "tags.cncf.io/container-device-interface/specs-go"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/docker"
	"github.com/nimbus-ci/nimbus/internal/executor/gpu/inventory"
)

// kind is what NVIDIA's toolkit calls its devices in the Container Device
// Interface.
const kind = "nvidia.com/gpu"

// catalog is the descriptions of devices that this host has, and whether the
// daemon of containers injects them by itself.
type catalog struct {
	cache  *cdi.Cache
	daemon bool
}

// descriptions reads them: from where the daemon does, if it does.
func (e *Executor) descriptions(ctx context.Context) (*catalog, error) {
	folders, err := e.Injection(ctx)
	if err != nil {
		return nil, err
	}
	c := &catalog{daemon: len(folders) > 0}
	if !c.daemon {
		folders = e.cfg.CDIDirs
	}
	if c.cache, err = cdi.NewCache(cdi.WithSpecDirs(folders...), cdi.WithAutoRefresh(false)); err != nil {
		return nil, fmt.Errorf("read descriptions of devices: %w", err)
	}
	return c, nil
}

// name finds what a unit is called: by its UUID, or as the toolkit counts.
func (c *catalog) name(u inventory.Unit) (string, error) {
	counted := strconv.Itoa(u.GPU)
	if u.Slice >= 0 {
		counted += ":" + strconv.Itoa(u.Slice)
	}
	for _, name := range []string{u.ID, counted} {
		if full := kind + "=" + name; c.cache.GetDevice(full) != nil {
			return full, nil
		}
	}
	err := nimbus.Errorf(nimbus.CodeUnavailable, "there is no description of GPU %s for containers in %s", u.ID, strings.Join(c.cache.GetSpecDirectories(), ", ")).
		WithHint("write it with NVIDIA's toolkit: nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml")
	for path, errs := range c.cache.GetErrors() {
		return "", fmt.Errorf("%w; %s: %w", err, path, errs[0])
	}
	return "", err
}

// devices is what a container gets, to have these units.
func (c *catalog) devices(units []inventory.Unit) (*docker.Devices, error) {
	d := &docker.Devices{}
	var all []*cdi.Device
	for _, u := range units {
		name, err := c.name(u)
		if err != nil {
			return nil, err
		}
		d.Named, all = append(d.Named, name), append(all, c.cache.GetDevice(name))
	}
	var seen []*cdi.Spec
	for _, device := range all {
		if spec := device.GetSpec(); !slices.Contains(seen, spec) {
			seen = append(seen, spec)
			if err := c.add(d, spec.ContainerEdits, device.GetQualifiedName()); err != nil {
				return nil, err
			}
		}
		if err := c.add(d, device.ContainerEdits, device.GetQualifiedName()); err != nil {
			return nil, err
		}
	}
	if !c.daemon {
		d.Named = nil
	}
	return d, nil
}

// add takes over what a description has done to a container. All of it is known
// here, but for programs that are to be run on the way: those need a daemon that
// injects devices by itself.
func (c *catalog) add(d *docker.Devices, edits specs.ContainerEdits, name string) error {
	d.Env = append(d.Env, edits.Env...)
	if c.daemon {
		return nil
	}
	switch {
	case len(edits.Hooks) > 0:
		return nimbus.Errorf(nimbus.CodeUnsupported, "the docker daemon can't inject %s: its description has programs run while a container is made", name).
			WithHint("use docker 28.3 or newer, or 25 with \"features\": {\"cdi\": true} in its configuration")
	case len(edits.NetDevices) > 0 || edits.IntelRdt != nil:
		return nimbus.Errorf(nimbus.CodeUnsupported, "the docker daemon can't inject %s: its description is of more than devices, folders and variables", name).
			WithHint("use docker 28.3 or newer")
	}
	for _, n := range edits.DeviceNodes {
		d.Nodes = append(d.Nodes, container.DeviceMapping{
			PathOnHost: cmp.Or(n.HostPath, n.Path), PathInContainer: n.Path, CgroupPermissions: cmp.Or(n.Permissions, "rwm"),
		})
	}
	for _, m := range edits.Mounts {
		d.Mounts = append(d.Mounts, mount.Mount{
			Type: mount.TypeBind, Source: m.HostPath, Target: m.ContainerPath, ReadOnly: slices.Contains(m.Options, "ro"),
			BindOptions: &mount.BindOptions{Propagation: mount.PropagationRPrivate},
		})
	}
	for _, gid := range edits.AdditionalGIDs {
		d.Groups = append(d.Groups, strconv.FormatUint(uint64(gid), 10))
	}
	return nil
}
