package client

import (
	"context"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// RerunPolicy is whether Nimbus has GitHub run lost jobs of the org again by
// itself, and what was.
func (c *Client) RerunPolicy(ctx context.Context) (nimbus.RerunUse, error) {
	answer, err := call(ctx, c.reruns.GetRerunPolicy, &nimbusv1.GetRerunPolicyRequest{})
	return nimbus.RerunUse{
		RerunPolicy: nimbus.RerunPolicy{PerRun: int(answer.GetPolicy().GetPerRun()), PerHour: int(answer.GetPolicy().GetPerHour())},
		LastHour:    int(answer.GetLastHour()), Waiting: int(answer.GetWaiting()),
	}, err
}

// SetRerunPolicy sets it. Codes: invalid.
func (c *Client) SetRerunPolicy(ctx context.Context, p nimbus.RerunPolicy) error {
	_, err := call(ctx, c.reruns.SetRerunPolicy, &nimbusv1.SetRerunPolicyRequest{
		Policy: &nimbusv1.RerunPolicy{PerRun: int32(p.PerRun), PerHour: int32(p.PerHour)},
	})
	return err
}
