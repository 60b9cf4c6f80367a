package api

import (
	"context"
	"net/url"
)

// RateLimiter bounds a device in bytes, in operations, or in both.
type RateLimiter struct {
	Bandwidth *TokenBucket `json:"bandwidth,omitempty"`
	Ops       *TokenBucket `json:"ops,omitempty"`
}

// TokenBucket is refilled by Size in RefillMS milliseconds.
type TokenBucket struct {
	Size     int64 `json:"size"`
	RefillMS int64 `json:"refill_time"`
	// Burst is spent once, before anything is taken from the bucket.
	Burst int64 `json:"one_time_burst,omitempty"`
}

// PerSecond is a limiter of that many bytes and operations per second; 0 is no
// limit. It is nil when there is none at all.
func PerSecond(bytes, ops int64) *RateLimiter {
	bucket := func(n int64) *TokenBucket {
		if n <= 0 {
			return nil
		}
		return &TokenBucket{Size: n, RefillMS: 1000}
	}
	if bytes <= 0 && ops <= 0 {
		return nil
	}
	return &RateLimiter{Bandwidth: bucket(bytes), Ops: bucket(ops)}
}

// Drive is a disk, backed by a file.
type Drive struct {
	ID       string       `json:"drive_id"` // letters, digits and "_"
	Path     string       `json:"path_on_host"`
	Root     bool         `json:"is_root_device"` // it becomes the first, and root= is added to the arguments
	ReadOnly bool         `json:"is_read_only"`
	Cache    CacheType    `json:"cache_type,omitempty"`
	Engine   IOEngine     `json:"io_engine,omitempty"`
	Limit    *RateLimiter `json:"rate_limiter,omitempty"`
}

// CacheType tells what a flush of the guest does.
type CacheType string

// The cache types.
const (
	CacheUnsafe    CacheType = "Unsafe"    // nothing
	CacheWriteback CacheType = "Writeback" // it syncs the file
)

// IOEngine tells how the file is read and written.
type IOEngine string

// The engines.
const (
	EngineSync  IOEngine = "Sync"
	EngineAsync IOEngine = "Async" // io_uring
)

// PutDrive adds a disk, before the machine starts.
func (c *Client) PutDrive(ctx context.Context, d Drive) error {
	return c.put(ctx, "/drives/"+url.PathEscape(d.ID), d)
}

// DriveUpdate changes a disk of a running machine; what is empty stays.
type DriveUpdate struct {
	ID    string       `json:"drive_id"`
	Path  string       `json:"path_on_host,omitempty"`
	Limit *RateLimiter `json:"rate_limiter,omitempty"`
}

// PatchDrive changes a disk of a running machine.
func (c *Client) PatchDrive(ctx context.Context, d DriveUpdate) error {
	return c.patch(ctx, "/drives/"+url.PathEscape(d.ID), d)
}

// NetworkInterface is a network device, backed by a tap.
type NetworkInterface struct {
	ID      string       `json:"iface_id"`
	HostDev string       `json:"host_dev_name"`
	MAC     string       `json:"guest_mac,omitempty"`
	MTU     int          `json:"mtu,omitempty"`
	Receive *RateLimiter `json:"rx_rate_limiter,omitempty"`
	Send    *RateLimiter `json:"tx_rate_limiter,omitempty"`
}

// PutNetworkInterface adds a network device, before the machine starts.
func (c *Client) PutNetworkInterface(ctx context.Context, n NetworkInterface) error {
	return c.put(ctx, "/network-interfaces/"+url.PathEscape(n.ID), n)
}

// NetworkInterfaceUpdate changes the limits of a network device; what is nil
// stays.
type NetworkInterfaceUpdate struct {
	ID      string       `json:"iface_id"`
	Receive *RateLimiter `json:"rx_rate_limiter,omitempty"`
	Send    *RateLimiter `json:"tx_rate_limiter,omitempty"`
}

// PatchNetworkInterface changes a network device of a running machine.
func (c *Client) PatchNetworkInterface(ctx context.Context, n NetworkInterfaceUpdate) error {
	return c.patch(ctx, "/network-interfaces/"+url.PathEscape(n.ID), n)
}
