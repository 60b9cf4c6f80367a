package client

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// Report is what the jobs of the org that ended of late say together. span is how
// far it looks back, 1 h to 90 days; 0 means 14 days. Codes: invalid.
func (c *Client) Report(ctx context.Context, span time.Duration) (nimbus.Report, error) {
	answer, err := call(ctx, c.reports.GetReport, &nimbusv1.GetReportRequest{Span: durationpb.New(span)})
	return wire.ToReport(answer), err
}

// HostJobs is what runs on all hosts, by host, with what each job uses; more says
// that this is not all. Codes: forbidden.
func (c *Client) HostJobs(ctx context.Context) (jobs []nimbus.HostJob, more bool, err error) {
	answer, err := call(ctx, c.hosts.ListHostJobs, &nimbusv1.ListHostJobsRequest{})
	for _, j := range answer.GetJobs() {
		jobs = append(jobs, wire.ToHostJob(j))
	}
	return jobs, answer.GetMore(), err
}
