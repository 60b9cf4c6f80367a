package api

import (
	"context"
	"encoding/json"
)

// MMDSConfig tells which network devices reach the metadata service.
type MMDSConfig struct {
	Version    MMDSVersion `json:"version"`
	Interfaces []string    `json:"network_interfaces"`
	Address    string      `json:"ipv4_address,omitempty"` // 169.254.169.254 unless it is given
	IMDSCompat bool        `json:"imds_compat,omitempty"`
}

// MMDSVersion is the protocol that the guest speaks with the metadata service.
type MMDSVersion string

// MMDSv2 asks for a session's token with each request, so that a request that
// somebody else made the guest send gets nothing. The older one isn't offered.
const MMDSv2 MMDSVersion = "V2"

// PutMMDSConfig configures the metadata service, before the machine starts.
func (c *Client) PutMMDSConfig(ctx context.Context, m MMDSConfig) error {
	return c.put(ctx, "/mmds/config", m)
}

// PutMMDS replaces the metadata, an object.
func (c *Client) PutMMDS(ctx context.Context, data json.RawMessage) error {
	return c.put(ctx, "/mmds", data)
}

// PatchMMDS merges into the metadata.
func (c *Client) PatchMMDS(ctx context.Context, data json.RawMessage) error {
	return c.patch(ctx, "/mmds", data)
}

// MMDS returns the metadata.
func (c *Client) MMDS(ctx context.Context) (raw json.RawMessage, err error) {
	return raw, c.get(ctx, "/mmds", &raw)
}

// Logger is the monitor's own log; without a path it goes to stdout.
type Logger struct {
	Path       string `json:"log_path,omitempty"`
	Level      Level  `json:"level,omitempty"`
	ShowLevel  bool   `json:"show_level"`
	ShowOrigin bool   `json:"show_log_origin"`
	Module     string `json:"module,omitempty"`
}

// Level is how much is logged.
type Level string

// The levels.
const (
	LevelOff     Level = "Off"
	LevelError   Level = "Error"
	LevelWarning Level = "Warning"
	LevelInfo    Level = "Info"
	LevelDebug   Level = "Debug"
	LevelTrace   Level = "Trace"
)

// PutLogger sets the monitor's log, before the machine starts.
func (c *Client) PutLogger(ctx context.Context, l Logger) error { return c.put(ctx, "/logger", l) }

// Metrics is where the monitor's counters are written to, a line of JSON each
// minute. The file must exist.
type Metrics struct {
	Path string `json:"metrics_path"`
}

// PutMetrics sets where the counters go, before the machine starts.
func (c *Client) PutMetrics(ctx context.Context, m Metrics) error { return c.put(ctx, "/metrics", m) }
