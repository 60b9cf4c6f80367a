package scheduler

import (
	"context"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// What a report looks at: so many runs of each part of the time at most, so that
// its cost does not grow with the history, and the past is in it as well as today.
const (
	reportParts = 48
	runsPerPart = 100
)

// Bounds of the time that a report looks at.
const (
	MinReportSpan     = time.Hour
	DefaultReportSpan = 14 * 24 * time.Hour
	MaxReportSpan     = 90 * 24 * time.Hour
)

// FinishedRuns are the runs that a report looks at: of each part of the time up to
// now, the last jobs of an org that ended in it. sampled says that there were
// more. Codes: invalid.
func (s *Service) FinishedRuns(ctx context.Context, orgID string, span time.Duration) (runs []nimbus.Run, since, until time.Time, sampled bool, err error) {
	if span == 0 {
		span = DefaultReportSpan
	}
	if span < MinReportSpan || span > MaxReportSpan {
		return nil, since, until, false, nimbus.Errorf(nimbus.CodeInvalid, "a report looks back %s to %s, not %s", MinReportSpan, MaxReportSpan, span)
	}
	err = s.store.View(ctx, func(r Reader) error {
		runs, sampled = nil, false
		until = r.Now()
		since = until.Add(-span)
		begin := func(part int64) time.Time { return since.Add(time.Duration(part * int64(span) / reportParts)) }
		for part := range int64(reportParts) {
			some, err := r.FinishedRuns(ctx, orgID, begin(part), begin(part+1), runsPerPart+1)
			if err != nil {
				return err
			}
			if len(some) > runsPerPart {
				some, sampled = some[:runsPerPart], true
			}
			runs = append(runs, some...)
		}
		return nil
	})
	return runs, since, until, sampled, err
}

// maxHostJobs bounds what is told of what runs.
const maxHostJobs = 1000

// HostJobs is what runs on all hosts, by host, with what each job uses. more says
// that this is not all.
func (s *Service) HostJobs(ctx context.Context) (jobs []nimbus.HostJob, more bool, err error) {
	err = s.store.View(ctx, func(r Reader) (err error) {
		jobs, err = r.HostJobs(ctx, maxHostJobs+1)
		return err
	})
	if len(jobs) > maxHostJobs {
		jobs, more = jobs[:maxHostJobs], true
	}
	return jobs, more, err
}
