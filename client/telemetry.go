package client

import (
	"context"
	"time"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// Trace is a job's life with the spans that its processes sent by OTLP, at most so
// many of these; 0 for the usual. Codes: not_found, invalid.
func (c *Client) Trace(ctx context.Context, jobID string, limit int) (nimbus.Trace, error) {
	answer, err := call(ctx, c.telemetry.GetTrace, &nimbusv1.GetTraceRequest{JobId: jobID, Limit: int32(limit)})
	return wire.ToTrace(answer), err
}

// Telemetry is a page of the log records, or of the points of metrics, that a job's
// processes sent by OTLP. Codes: not_found, invalid.
func (c *Client) Telemetry(ctx context.Context, jobID string, s nimbus.Signal, size int, token string) (nimbus.TelemetryPage, error) {
	answer, err := call(ctx, c.telemetry.ListTelemetry, &nimbusv1.ListTelemetryRequest{JobId: jobID, Signal: string(s), PageSize: int32(size), PageToken: token})
	return wire.ToTelemetryPage(answer), err
}

// OrgTelemetry is whether jobs of the org have a receiver of OTLP, and how much of
// what they sent is kept.
type OrgTelemetry struct {
	Off, OffForAll    bool
	Bytes, QuotaBytes int64
	KeptFor           time.Duration
}

// OrgTelemetry tells it.
func (c *Client) OrgTelemetry(ctx context.Context) (OrgTelemetry, error) {
	answer, err := call(ctx, c.telemetry.GetOrgTelemetry, &nimbusv1.GetOrgTelemetryRequest{})
	return OrgTelemetry{Off: answer.GetOff(), OffForAll: answer.GetOffForAll(), Bytes: answer.GetBytes(), QuotaBytes: answer.GetQuotaBytes(), KeptFor: answer.GetKeptFor().AsDuration()}, err
}

// SetOrgTelemetry says whether they have. Codes: forbidden.
func (c *Client) SetOrgTelemetry(ctx context.Context, on bool) error {
	_, err := call(ctx, c.telemetry.SetOrgTelemetry, &nimbusv1.SetOrgTelemetryRequest{Off: !on})
	return err
}
