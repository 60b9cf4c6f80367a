package firecracker

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/firecracker/api"
)

// guestCID is the guest's address for vsock: each machine has a device of its
// own, so all have the same.
const guestCID = 3

// deviceID names the only network device.
const deviceID = "eth0"

// entropyPerSecond is how many random bytes a guest gets: enough for keys, too
// few to keep the host busy.
const entropyPerSecond = 1 << 20

// socketTimeout bounds the time until the monitor listens. It takes 10 ms.
const (
	socketTimeout  = 20 * time.Second
	socketInterval = 2 * time.Millisecond
)

// client reaches the monitor of the machine in dir.
func client(dir string) (*api.Client, error) {
	root, err := root(dir)
	if err != nil {
		return nil, err
	}
	return api.New(func(ctx context.Context) (net.Conn, error) { return root.Dial(ctx, apiSocket) }), nil
}

// await waits until the monitor in dir answers.
func await(ctx context.Context, dir string) (*api.Client, error) {
	c, err := client(dir)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, socketTimeout)
	defer cancel()
	for {
		if _, err = c.Version(ctx); err == nil {
			return c, nil
		}
		select {
		case <-time.After(socketInterval):
		case <-ctx.Done():
			c.Close()
			return nil, fmt.Errorf("wait for firecracker: %w: %w", context.Cause(ctx), err)
		}
	}
}

// Boot tells the monitor what the machine is, and starts it.
func (d *Driver) Boot(ctx context.Context, m vmm.Machine) error {
	c, err := await(ctx, m.Dir)
	if err != nil {
		return err
	}
	defer c.Close()
	steps := []func(context.Context) error{
		func(ctx context.Context) error {
			return c.PutMachineConfig(ctx, api.MachineConfig{VCPUs: m.CPUs, MemoryMiB: m.MemoryMiB})
		},
		func(ctx context.Context) error { return c.PutBootSource(ctx, bootSource(m)) },
		func(ctx context.Context) error { return putDrives(ctx, c, m.Disks) },
		func(ctx context.Context) error { return putDevice(ctx, c, m.Device) },
		func(ctx context.Context) error {
			return c.PutVsock(ctx, api.Vsock{GuestCID: guestCID, Path: vsockSocket})
		},
		func(ctx context.Context) error {
			return c.PutEntropy(ctx, api.Entropy{Limit: api.PerSecond(entropyPerSecond, 0)})
		},
		func(ctx context.Context) error {
			return c.PutBalloon(ctx, api.Balloon{DeflateOnOOM: true, StatsSeconds: d.cfg.BalloonStats})
		},
		func(ctx context.Context) error { return putMetadata(ctx, c, m) },
		c.Start,
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return fmt.Errorf("boot: %w", err)
		}
	}
	return nil
}

func bootSource(m vmm.Machine) api.BootSource {
	words := []string{
		"console=ttyS0", "quiet", "panic=-1", "reboot=k", "random.trust_cpu=on", "8250.nr_uarts=1", "pci=off",
		fmt.Sprintf("nimbus.vsock=%d", GuestPort), m.Parameters,
	}
	b := api.BootSource{Kernel: kernelFile, Arguments: strings.TrimSpace(strings.Join(words, " "))}
	if m.Initrd != "" {
		b.Initrd = initrdFile
	}
	return b
}

// putDrives adds the disks in the guest's order. None is the root device: that
// would add to the kernel's arguments, which say it themselves.
func putDrives(ctx context.Context, c *api.Client, disks []vmm.Disk) error {
	for i, disk := range disks {
		err := c.PutDrive(ctx, api.Drive{
			ID: driveID(i), Path: driveID(i), ReadOnly: disk.ReadOnly,
			Cache: api.CacheUnsafe, // it is thrown away with the machine
			Limit: api.PerSecond(disk.Rate.BytesPerSecond, disk.Rate.OpsPerSecond),
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func putDevice(ctx context.Context, c *api.Client, device *vmm.Device) error {
	if device == nil {
		return nil
	}
	limit := api.PerSecond(device.Rate.BytesPerSecond, device.Rate.OpsPerSecond)
	return c.PutNetworkInterface(ctx, api.NetworkInterface{
		ID: deviceID, HostDev: device.Tap, MAC: device.MAC, Receive: limit, Send: limit,
	})
}

// putMetadata configures the metadata service where there is something to tell.
func putMetadata(ctx context.Context, c *api.Client, m vmm.Machine) error {
	if m.Metadata == nil || m.Device == nil {
		return nil
	}
	if err := c.PutMMDSConfig(ctx, api.MMDSConfig{Version: api.MMDSv2, Interfaces: []string{deviceID}}); err != nil {
		return err
	}
	return c.PutMMDS(ctx, m.Metadata)
}
