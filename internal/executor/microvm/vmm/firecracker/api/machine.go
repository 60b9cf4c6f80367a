package api

import "context"

// MachineConfig is the machine's size.
type MachineConfig struct {
	VCPUs           int       `json:"vcpu_count"` // 1, or an even number with SMT; at most 32
	MemoryMiB       int       `json:"mem_size_mib"`
	SMT             bool      `json:"smt"`
	TrackDirtyPages bool      `json:"track_dirty_pages"` // so that diff snapshots can be made
	HugePages       HugePages `json:"huge_pages,omitempty"`
}

// HugePages tells what pages the guest's memory is made of.
type HugePages string

// The kinds of pages.
const (
	HugePagesNone        HugePages = "None"
	HugePagesTransparent HugePages = "Transparent"
	HugePages2M          HugePages = "2M"
	// HugePagesSnapshot takes what the snapshot had; for loading one only.
	HugePagesSnapshot HugePages = "Snapshot"
)

// MachineConfig returns the machine's size.
func (c *Client) MachineConfig(ctx context.Context) (m MachineConfig, err error) {
	return m, c.get(ctx, "/machine-config", &m)
}

// PutMachineConfig sets the machine's size, before it starts.
func (c *Client) PutMachineConfig(ctx context.Context, m MachineConfig) error {
	return c.put(ctx, "/machine-config", m)
}

// PatchMachineConfig changes the machine's size, before it starts.
func (c *Client) PatchMachineConfig(ctx context.Context, m MachineConfig) error {
	return c.patch(ctx, "/machine-config", m)
}

// BootSource is what the machine boots. Paths are the monitor's: in a jail they
// begin at its root.
type BootSource struct {
	Kernel    string `json:"kernel_image_path"`
	Initrd    string `json:"initrd_path,omitempty"`
	Arguments string `json:"boot_args,omitempty"`
}

// PutBootSource sets what the machine boots, before it starts.
func (c *Client) PutBootSource(ctx context.Context, b BootSource) error {
	return c.put(ctx, "/boot-source", b)
}

// Entropy is the device that the guest gets random numbers from.
type Entropy struct {
	Limit *RateLimiter `json:"rate_limiter,omitempty"`
}

// PutEntropy adds the device, before the machine starts.
func (c *Client) PutEntropy(ctx context.Context, e Entropy) error { return c.put(ctx, "/entropy", e) }

// Vsock is the device that connects sockets of the guest with those of the host.
type Vsock struct {
	GuestCID uint32 `json:"guest_cid"` // 3 or more
	Path     string `json:"uds_path"`
}

// PutVsock adds the device, before the machine starts.
func (c *Client) PutVsock(ctx context.Context, v Vsock) error { return c.put(ctx, "/vsock", v) }

// Serial tells where the guest's console goes: the monitor's stdout unless
// there is a path.
type Serial struct {
	Path  string       `json:"serial_out_path,omitempty"`
	Limit *TokenBucket `json:"rate_limiter,omitempty"` // what exceeds it is dropped
}

// PutSerial sets the console, before the machine starts.
func (c *Client) PutSerial(ctx context.Context, s Serial) error { return c.put(ctx, "/serial", s) }
