package httpapi

import (
	"context"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// agentService implements nimbusv1connect.AgentServiceHandler. The host is
// always the caller's own: a request can't name one.
type agentService struct{ api *api }

func (s agentService) Hello(ctx context.Context, r *connect.Request[nimbusv1.HelloRequest]) (*connect.Response[nimbusv1.HelloResponse], error) {
	statuses, err := s.api.Hosts.Hello(ctx, callerOf(ctx).Subject, r.Msg.GetVersion(), wire.ToInventory(r.Msg.GetInventory()), wire.ToLeases(r.Msg.GetLeases()))
	if err != nil {
		return nil, err
	}
	if err := s.api.Shells.HostStarted(ctx, callerOf(ctx).Subject); err != nil {
		return nil, err
	}
	return connect.NewResponse(&nimbusv1.HelloResponse{Leases: wire.LeaseStatuses(statuses)}), nil
}

func (s agentService) Poll(ctx context.Context, r *connect.Request[nimbusv1.PollRequest]) (*connect.Response[nimbusv1.PollResponse], error) {
	result, err := s.api.Hosts.Poll(ctx, callerOf(ctx).Subject, wire.ToFree(r.Msg), r.Msg.GetWait().AsDuration())
	if err != nil {
		return nil, err
	}
	out := &nimbusv1.PollResponse{CancelAttemptIds: result.Cancel}
	for _, o := range result.Offers {
		out.Offers = append(out.Offers, wire.Offer(o))
	}
	for _, sh := range result.Shells {
		out.Shells = append(out.Shells, &nimbusv1.ShellCall{ShellId: sh.ShellID, AttemptId: sh.AttemptID})
	}
	return connect.NewResponse(out), nil
}

func (s agentService) Accept(ctx context.Context, r *connect.Request[nimbusv1.AcceptRequest]) (*connect.Response[nimbusv1.AcceptResponse], error) {
	a, err := s.api.Hosts.Accept(ctx, callerOf(ctx).Subject, wire.ToLease(r.Msg.GetLease()))
	if err != nil {
		return nil, err
	}
	if a.Telemetry, err = s.api.Telemetry.Wanted(ctx, a.OrgID); err != nil {
		return nil, err
	}
	if s.api.Cache != nil {
		if a.CacheToken, err = s.api.Cache.Token(a); err != nil {
			return nil, err
		}
		if a.CacheDoor, err = s.api.hasCacheDoor(ctx, a); err != nil {
			return nil, err
		}
	}
	return connect.NewResponse(&nimbusv1.AcceptResponse{Assignment: wire.Assignment(a)}), nil
}

func (s agentService) Heartbeat(ctx context.Context, r *connect.Request[nimbusv1.HeartbeatRequest]) (*connect.Response[nimbusv1.HeartbeatResponse], error) {
	statuses, err := s.api.Hosts.Heartbeat(ctx, callerOf(ctx).Subject, wire.ToLeases(r.Msg.GetLeases()))
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&nimbusv1.HeartbeatResponse{Leases: wire.LeaseStatuses(statuses), Wishes: s.wishes(ctx, r.Msg.GetWarmed())}), nil
}

func (s agentService) ReportPhase(ctx context.Context, r *connect.Request[nimbusv1.ReportPhaseRequest]) (*connect.Response[nimbusv1.ReportPhaseResponse], error) {
	start := nimbus.Start{Origin: nimbus.Origin(r.Msg.GetOrigin()), Took: r.Msg.GetTook().AsDuration()}
	err := s.api.Hosts.ReportPhase(ctx, callerOf(ctx).Subject, wire.ToLease(r.Msg.GetLease()), nimbus.Phase(r.Msg.GetPhase()), start)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&nimbusv1.ReportPhaseResponse{}), nil
}

func (s agentService) CreateRunner(ctx context.Context, r *connect.Request[nimbusv1.CreateRunnerRequest]) (*connect.Response[nimbusv1.CreateRunnerResponse], error) {
	runner, jit, err := s.api.Hosts.CreateRunner(ctx, callerOf(ctx).Subject, wire.ToLease(r.Msg.GetLease()))
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&nimbusv1.CreateRunnerResponse{RunnerName: runner.Name, EncodedJitConfig: jit}), nil
}

func (s agentService) CreateCacheToken(ctx context.Context, r *connect.Request[nimbusv1.CreateCacheTokenRequest]) (*connect.Response[nimbusv1.CreateCacheTokenResponse], error) {
	if s.api.Cache == nil {
		return nil, nimbus.Errorf(nimbus.CodeNotFound, "this server has no cache")
	}
	token, reason, err := s.api.Cache.GitHubToken(ctx, callerOf(ctx).Subject, wire.ToLease(r.Msg.GetLease()))
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&nimbusv1.CreateCacheTokenResponse{Token: token, Reason: reason}), nil
}

// AppendLog stores lines before it tells anybody of them.
func (s agentService) AppendLog(ctx context.Context, r *connect.Request[nimbusv1.AppendLogRequest]) (*connect.Response[nimbusv1.AppendLogResponse], error) {
	key, err := s.api.Hosts.LogLease(ctx, callerOf(ctx).Subject, wire.ToLease(r.Msg.GetLease()))
	if err != nil {
		return nil, err
	}
	lines := make([]nimbus.Line, len(r.Msg.GetLines()))
	for i, l := range r.Msg.GetLines() {
		lines[i] = wire.ToLine(l)
		if err := checkLine(lines[i]); err != nil {
			return nil, err
		}
	}
	acked, err := s.api.Logs.Append(ctx, key, lines)
	if err != nil {
		return nil, err
	}
	if err := s.api.Hosts.LogStored(ctx, key, acked); err != nil {
		return nil, err
	}
	return connect.NewResponse(&nimbusv1.AppendLogResponse{AcknowledgedSeq: acked}), nil
}

func checkLine(l nimbus.Line) error {
	switch l.Stream {
	case nimbus.StreamStdout, nimbus.StreamStderr, nimbus.StreamSystem, nimbus.StreamStep:
	default:
		return nimbus.Errorf(nimbus.CodeInvalid, "line %d is of no stream", l.Seq)
	}
	if l.Seq < 1 || l.Step < 0 || len(l.Text) > nimbus.MaxLineBytes || l.At.IsZero() {
		return nimbus.Errorf(nimbus.CodeInvalid, "line %d is out of bounds", l.Seq)
	}
	return nil
}

func (s agentService) ReportUsage(ctx context.Context, r *connect.Request[nimbusv1.ReportUsageRequest]) (*connect.Response[nimbusv1.ReportUsageResponse], error) {
	hostID := callerOf(ctx).Subject
	usages := make([]scheduler.AttemptUsage, len(r.Msg.GetUsages()))
	for i, u := range r.Msg.GetUsages() {
		usages[i] = scheduler.AttemptUsage{HeldLease: scheduler.HeldLease{Lease: wire.ToLease(u.GetLease()), HostID: hostID}, Series: wire.ToUsageSeries(u.GetSeries())}
	}
	return reply(&nimbusv1.ReportUsageResponse{}, s.api.Hosts.ReportUsage(ctx, usages))
}

func (s agentService) FinishAttempt(ctx context.Context, r *connect.Request[nimbusv1.FinishAttemptRequest]) (*connect.Response[nimbusv1.FinishAttemptResponse], error) {
	host, lease, outcome := callerOf(ctx).Subject, wire.ToLease(r.Msg.GetLease()), wire.ToOutcome(r.Msg.GetOutcome())
	if r.Msg.GetHold() {
		held, err := s.api.Hosts.FinishHeld(ctx, host, lease, outcome)
		return reply(&nimbusv1.FinishAttemptResponse{Held: held}, err)
	}
	return reply(&nimbusv1.FinishAttemptResponse{}, s.api.Hosts.Finish(ctx, host, lease, outcome))
}
