package httpapi

import (
	"context"

	"connectrpc.com/connect"

	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/report"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// reportService implements nimbusv1connect.ReportServiceHandler.
type reportService struct{ api *api }

func (s reportService) GetReport(ctx context.Context, r *connect.Request[nimbusv1.GetReportRequest]) (*connect.Response[nimbusv1.GetReportResponse], error) {
	runs, since, until, sampled, err := s.api.Jobs.FinishedRuns(ctx, callerOf(ctx).org, r.Msg.GetSpan().AsDuration())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(wire.Report(report.Of(runs, since, until, sampled))), nil
}
