package api

import (
	"context"
	"encoding/json"
	"net/http"
)

// Instance is a monitor and its machine.
type Instance struct {
	ID      string `json:"id"`
	App     string `json:"app_name"`
	State   State  `json:"state"`
	Version string `json:"vmm_version"`
}

// State is what the machine does.
type State string

// The states.
const (
	StateNotStarted State = "Not started"
	StateRunning    State = "Running"
	StatePaused     State = "Paused"
)

// Instance returns what the monitor and its machine are.
func (c *Client) Instance(ctx context.Context) (i Instance, err error) { return i, c.get(ctx, "/", &i) }

// Version returns the monitor's version, "1.16.1".
func (c *Client) Version(ctx context.Context) (string, error) {
	var v struct {
		Version string `json:"firecracker_version"`
	}
	err := c.get(ctx, "/version", &v)
	return v.Version, err
}

// Config returns everything that the machine is made of, as JSON.
func (c *Client) Config(ctx context.Context) (raw json.RawMessage, err error) {
	return raw, c.get(ctx, "/vm/config", &raw)
}

func (c *Client) action(ctx context.Context, name string) error {
	return c.put(ctx, "/actions", struct {
		Type string `json:"action_type"`
	}{name})
}

// Start boots the machine. It can't be configured any more.
func (c *Client) Start(ctx context.Context) error { return c.action(ctx, "InstanceStart") }

// FlushMetrics writes the metrics now.
func (c *Client) FlushMetrics(ctx context.Context) error { return c.action(ctx, "FlushMetrics") }

// SendCtrlAltDel presses the keys on which a Linux guest shuts down.
func (c *Client) SendCtrlAltDel(ctx context.Context) error { return c.action(ctx, "SendCtrlAltDel") }

func (c *Client) setState(ctx context.Context, state string) error {
	return c.patch(ctx, "/vm", struct {
		State string `json:"state"`
	}{state})
}

// Pause stops the machine's processors.
func (c *Client) Pause(ctx context.Context) error { return c.setState(ctx, "Paused") }

// Resume lets the machine's processors run.
func (c *Client) Resume(ctx context.Context) error { return c.setState(ctx, "Resumed") }

// SnapshotType tells how much of the memory is saved.
type SnapshotType string

// The types.
const (
	SnapshotFull SnapshotType = "Full"
	SnapshotDiff SnapshotType = "Diff" // what was written since the last one
)

// SnapshotCreate tells where a paused machine is saved to. Its disks are not
// part of it.
type SnapshotCreate struct {
	State  string       `json:"snapshot_path"`
	Memory string       `json:"mem_file_path"`
	Type   SnapshotType `json:"snapshot_type,omitempty"`
}

// CreateSnapshot saves a paused machine.
func (c *Client) CreateSnapshot(ctx context.Context, s SnapshotCreate) error {
	return c.call(ctx, http.MethodPut, "/snapshot/create", snapshotTimeout, s, nil)
}

// SnapshotLoad tells what a machine is made of again.
type SnapshotLoad struct {
	State           string            `json:"snapshot_path"`
	Memory          MemoryBackend     `json:"mem_backend"`
	TrackDirtyPages bool              `json:"track_dirty_pages"`
	Resume          bool              `json:"resume_vm"`
	Networks        []NetworkOverride `json:"network_overrides,omitempty"`
	Vsock           *VsockOverride    `json:"vsock_override,omitempty"`
	// ClockRealtime moves the guest's clock on by the time that has passed.
	ClockRealtime bool      `json:"clock_realtime"`
	HugePages     HugePages `json:"huge_pages,omitempty"`
}

// MemoryBackend is where a restored machine's memory comes from.
type MemoryBackend struct {
	Type BackendType `json:"backend_type"`
	Path string      `json:"backend_path"`
}

// BackendType is a kind of memory backend.
type BackendType string

// The backends.
const (
	BackendFile BackendType = "File" // the file, mapped privately
	BackendUffd BackendType = "Uffd" // a page server that listens on a socket
)

// NetworkOverride gives a network device of the snapshot another tap.
type NetworkOverride struct {
	ID      string `json:"iface_id"`
	HostDev string `json:"host_dev_name"`
}

// VsockOverride gives the vsock device of the snapshot another socket.
type VsockOverride struct {
	Path string `json:"uds_path"`
}

// LoadSnapshot restores a machine in a monitor that has none. When that fails
// the monitor ends.
func (c *Client) LoadSnapshot(ctx context.Context, s SnapshotLoad) error {
	return c.call(ctx, http.MethodPut, "/snapshot/load", snapshotTimeout, s, nil)
}
