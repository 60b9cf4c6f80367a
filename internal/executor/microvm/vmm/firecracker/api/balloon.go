package api

import "context"

// Balloon is the device that takes memory back from the guest.
type Balloon struct {
	MiB          int  `json:"amount_mib"`
	DeflateOnOOM bool `json:"deflate_on_oom"`
	// StatsSeconds is how often the guest reports; 0 is never, and can't be
	// changed later.
	StatsSeconds int  `json:"stats_polling_interval_s,omitempty"`
	Hinting      bool `json:"free_page_hinting,omitempty"`
	Reporting    bool `json:"free_page_reporting,omitempty"` // the guest gives free pages back by itself
}

// Balloon returns the device.
func (c *Client) Balloon(ctx context.Context) (b Balloon, err error) {
	return b, c.get(ctx, "/balloon", &b)
}

// PutBalloon adds the device, before the machine starts.
func (c *Client) PutBalloon(ctx context.Context, b Balloon) error { return c.put(ctx, "/balloon", b) }

// ResizeBalloon asks the guest of a running machine for mib MiB in all.
func (c *Client) ResizeBalloon(ctx context.Context, mib int) error {
	return c.patch(ctx, "/balloon", struct {
		MiB int `json:"amount_mib"`
	}{mib})
}

// BalloonStats is what the guest last reported; it can claim anything.
type BalloonStats struct {
	TargetPages     int64 `json:"target_pages"`
	ActualPages     int64 `json:"actual_pages"`
	TargetMiB       int64 `json:"target_mib"`
	ActualMiB       int64 `json:"actual_mib"`
	FreeMemory      int64 `json:"free_memory"`
	TotalMemory     int64 `json:"total_memory"`
	AvailableMemory int64 `json:"available_memory"`
	DiskCaches      int64 `json:"disk_caches"`
	MajorFaults     int64 `json:"major_faults"`
	MinorFaults     int64 `json:"minor_faults"`
	SwapIn          int64 `json:"swap_in"`
	SwapOut         int64 `json:"swap_out"`
	OOMKills        int64 `json:"oom_kill"`
}

// BalloonStats returns what the guest last reported.
func (c *Client) BalloonStats(ctx context.Context) (s BalloonStats, err error) {
	return s, c.get(ctx, "/balloon/statistics", &s)
}

// PatchBalloonStats changes how often the guest reports.
func (c *Client) PatchBalloonStats(ctx context.Context, seconds int) error {
	return c.patch(ctx, "/balloon/statistics", struct {
		Seconds int `json:"stats_polling_interval_s"`
	}{seconds})
}
