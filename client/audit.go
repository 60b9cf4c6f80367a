package client

import (
	"context"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// AuditEntries lists entries of the org's chain, or of the platform's. A page
// has at most nimbus.MaxAuditPage. Codes: forbidden, invalid.
func (c *Client) AuditEntries(ctx context.Context, platform bool, f nimbus.AuditFilter, page nimbus.PageRequest) (entries []nimbus.AuditEntry, next string, err error) {
	answer, err := call(ctx, c.audit.ListAuditEntries, &nimbusv1.ListAuditEntriesRequest{
		Platform: platform, Actor: f.Actor, Action: f.Action, Target: f.Target, Since: wire.Time(f.Since), Until: wire.Time(f.Until),
		OldestFirst: f.OldestFirst, PageSize: int32(min(max(page.Size, 0), nimbus.MaxAuditPage)), PageToken: page.Token,
	})
	for _, e := range answer.GetEntries() {
		entries = append(entries, wire.ToAuditEntry(e))
	}
	return entries, answer.GetNextPageToken(), err
}

// AuditCheckpoints lists checkpoints of the org's chain, or of the platform's,
// the oldest first. Codes: forbidden, invalid.
func (c *Client) AuditCheckpoints(ctx context.Context, platform bool, page nimbus.PageRequest) (checkpoints []nimbus.AuditCheckpoint, next string, err error) {
	answer, err := call(ctx, c.audit.ListAuditCheckpoints, &nimbusv1.ListAuditCheckpointsRequest{
		Platform: platform, PageSize: int32(min(max(page.Size, 0), nimbus.MaxAuditPage)), PageToken: page.Token,
	})
	for _, p := range answer.GetCheckpoints() {
		checkpoints = append(checkpoints, wire.ToAuditCheckpoint(p))
	}
	return checkpoints, answer.GetNextPageToken(), err
}

// AuditKey is the key that checkpoints are verified by, PEM. Codes: forbidden.
func (c *Client) AuditKey(ctx context.Context) (string, error) {
	answer, err := call(ctx, c.audit.GetAuditKey, &nimbusv1.GetAuditKeyRequest{})
	return answer.GetPublicKey(), err
}
