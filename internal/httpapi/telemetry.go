package httpapi

import (
	"context"
	"net/http"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/traces"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// Telemetry is what jobs tell by OTLP.
type Telemetry interface {
	Wanted(ctx context.Context, orgID string) (bool, error)
	Append(ctx context.Context, key nimbus.LogKey, batches []nimbus.TelemetryBatch) (acked int64, err error)
	Trace(ctx context.Context, orgID, jobID string, limit int) (nimbus.Trace, error)
	Page(ctx context.Context, orgID, jobID string, s nimbus.Signal, size int, token string) (nimbus.TelemetryPage, error)
	Org(ctx context.Context, orgID string) (traces.OrgTelemetry, error)
	SetOrg(ctx context.Context, orgID string, off bool, e nimbus.AuditEvent) error
}

// AppendTelemetry stores what a lease's job told: under whose job that is, whatever
// the batches say.
func (s agentService) AppendTelemetry(ctx context.Context, r *connect.Request[nimbusv1.AppendTelemetryRequest]) (*connect.Response[nimbusv1.AppendTelemetryResponse], error) {
	key, err := s.api.Hosts.LogLease(ctx, callerOf(ctx).Subject, wire.ToLease(r.Msg.GetLease()))
	if err != nil {
		return nil, err
	}
	batches := make([]nimbus.TelemetryBatch, len(r.Msg.GetBatches()))
	for i, b := range r.Msg.GetBatches() {
		batches[i] = wire.ToTelemetryBatch(b)
	}
	acked, err := s.api.Telemetry.Append(ctx, key, batches)
	return reply(&nimbusv1.AppendTelemetryResponse{AcknowledgedSeq: acked}, err)
}

// telemetryService implements nimbusv1connect.TelemetryServiceHandler.
type telemetryService struct{ api *api }

func (s telemetryService) GetTrace(ctx context.Context, r *connect.Request[nimbusv1.GetTraceRequest]) (*connect.Response[nimbusv1.GetTraceResponse], error) {
	trace, err := s.api.Telemetry.Trace(ctx, callerOf(ctx).org, r.Msg.GetJobId(), int(r.Msg.GetLimit()))
	return reply(wire.Trace(trace), err)
}

func (s telemetryService) ListTelemetry(ctx context.Context, r *connect.Request[nimbusv1.ListTelemetryRequest]) (*connect.Response[nimbusv1.ListTelemetryResponse], error) {
	page, err := s.api.Telemetry.Page(ctx, callerOf(ctx).org, r.Msg.GetJobId(), nimbus.Signal(r.Msg.GetSignal()), int(r.Msg.GetPageSize()), r.Msg.GetPageToken())
	return reply(wire.TelemetryPage(page), err)
}

func (s telemetryService) GetOrgTelemetry(ctx context.Context, _ *connect.Request[nimbusv1.GetOrgTelemetryRequest]) (*connect.Response[nimbusv1.GetOrgTelemetryResponse], error) {
	o, err := s.api.Telemetry.Org(ctx, callerOf(ctx).org)
	return reply(&nimbusv1.GetOrgTelemetryResponse{Off: o.Off, OffForAll: o.OffForAll, Bytes: o.Bytes, QuotaBytes: o.Quota, KeptFor: durationpb.New(o.Keep)}, err)
}

func (s telemetryService) SetOrgTelemetry(ctx context.Context, r *connect.Request[nimbusv1.SetOrgTelemetryRequest]) (*connect.Response[nimbusv1.SetOrgTelemetryResponse], error) {
	c, set := callerOf(ctx), "on"
	if r.Msg.GetOff() {
		set = "off"
	}
	err := s.api.Telemetry.SetOrg(ctx, c.org, r.Msg.GetOff(), nimbus.AuditEvent{
		OrgID: c.org, Actor: c.Actor(), Action: "telemetry.set", Target: c.org, Outcome: nimbus.AuditAllowed, Detail: map[string]string{"receiver": set},
	})
	return reply(&nimbusv1.SetOrgTelemetryResponse{}, err)
}

// readTrace answers with a job's trace as the call GetTrace does, for who has no
// client of ours.
func (a *api) readTrace(w http.ResponseWriter, r *http.Request) error {
	limit, err := number(r, "limit", 0)
	if err != nil {
		return err
	}
	trace, err := a.Telemetry.Trace(r.Context(), callerOf(r.Context()).org, r.PathValue("id"), int(limit))
	if err != nil {
		return err
	}
	raw, err := protojson.Marshal(wire.Trace(trace))
	if err != nil {
		return nimbus.Errorf(nimbus.CodeInternal, "encode the trace: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	if _, err := w.Write(raw); err != nil {
		return nil //nolint:nilerr // the reader is gone: nobody to tell
	}
	return nil
}
