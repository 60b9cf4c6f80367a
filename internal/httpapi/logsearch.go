package httpapi

import (
	"context"
	"math"
	"strconv"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/logs"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
)

// LogBooks is what the books know of logs.
type LogBooks interface {
	AttemptsOfJob(ctx context.Context, orgID, jobID string, limit int32) ([]string, error)
	AttemptsOf(ctx context.Context, orgID string, wanted logs.Jobs, below string, limit int32) ([]string, error)
	JobOfLog(ctx context.Context, orgID, attemptID string) (logs.Owner, error)
	LogRetention(ctx context.Context, orgID string) (days int32, own bool, err error)
	SetLogRetention(ctx context.Context, orgID string, days int32, e nimbus.AuditEvent) error
	ClearLogRetention(ctx context.Context, orgID string, e nimbus.AuditEvent) error
	// MayImportLog tells whether an org may bring a log of an attempt back. Codes: conflict.
	MayImportLog(ctx context.Context, orgID, attemptID string) error
	RecordLogImport(ctx context.Context, e nimbus.AuditEvent) error
}

// Bounds of a search.
const (
	foundByDefault = 100
	// searchedAttempts is how many attempts of a job, or at once of a repository or of
	// metadata, are looked at.
	searchedAttempts = 500
	maxRetention     = 36_500 // days
)

// levels are the names of levels, by their number.
var levels = [...]string{"", "debug", "info", "warn", "error"} //nolint:gochecknoglobals // a constant

// logService implements nimbusv1connect.LogServiceHandler.
type logService struct{ api *api }

// SearchLogs looks in the caller's org alone: which one that is comes from no field of
// the request, and neither do the attempts.
func (s logService) SearchLogs(ctx context.Context, r *connect.Request[nimbusv1.SearchLogsRequest]) (*connect.Response[nimbusv1.SearchLogsResponse], error) {
	searcher, ok := s.api.Logs.(logs.Searcher)
	if !ok {
		return nil, nimbus.Errorf(nimbus.CodeUnavailable, "this server's logs can't be searched")
	}
	q, err := toQuery(r.Msg)
	if err != nil {
		return nil, err
	}
	org := callerOf(ctx).org
	further, err := s.narrow(ctx, org, r.Msg, &q)
	if err != nil {
		return nil, err
	}
	page, err := searcher.Search(ctx, org, q)
	if err != nil {
		return nil, err
	}
	if page.Next == "" {
		page.Next = further
	}
	lines, err := s.found(ctx, org, page.Found)
	return reply(&nimbusv1.SearchLogsResponse{Lines: lines, NextPageToken: page.Next, ScannedBytes: page.Scanned}, err)
}

func toQuery(m *nimbusv1.SearchLogsRequest) (q logs.Query, err error) {
	q = logs.Query{Text: m.GetText(), Pattern: m.GetPattern(), Step: m.GetStep(), Limit: int(m.GetPageSize()), After: m.GetPageToken()}
	if q.Limit == 0 {
		q.Limit = foundByDefault
	}
	for _, text := range m.GetStreams() {
		switch stream := nimbus.Stream(text); stream {
		case nimbus.StreamStdout, nimbus.StreamStderr, nimbus.StreamSystem, nimbus.StreamStep:
			q.Streams = append(q.Streams, stream)
		default:
			return q, nimbus.Errorf(nimbus.CodeInvalid, "there is no stream %.50q: stdout, stderr, system or step", text)
		}
	}
	if q.Level, err = toLevel(m.GetLevel()); err != nil {
		return q, err
	}
	if at := m.GetSince(); at != nil {
		q.Since = at.AsTime()
	}
	if at := m.GetUntil(); at != nil {
		q.Until = at.AsTime()
	}
	return q, nil
}

func toLevel(name string) (logs.Level, error) {
	for i, n := range levels {
		if n == name {
			return logs.Level(i), nil
		}
	}
	return 0, nimbus.Errorf(nimbus.CodeInvalid, "there is no level %.50q: debug, info, warn or error", name)
}

// narrow says which attempts are looked at, where a job, a repository or metadata is
// named, and where the next page begins if there are more of them.
func (s logService) narrow(ctx context.Context, org string, m *nimbusv1.SearchLogsRequest, q *logs.Query) (further string, err error) {
	wanted := logs.Jobs{Repo: strings.ToLower(m.GetRepo()), Metadata: m.GetMetadata()}
	if len(wanted.Metadata) > scheduler.MaxFilters {
		return "", nimbus.Errorf(nimbus.CodeInvalid, "logs are looked for by at most %d pieces of metadata", scheduler.MaxFilters)
	}
	switch {
	case m.GetJobId() != "":
		j, err := s.api.Jobs.Job(ctx, org, m.GetJobId())
		if err != nil {
			return "", err
		}
		if wanted.Want(j) {
			if q.Attempts, err = s.api.LogBooks.AttemptsOfJob(ctx, org, j.ID, searchedAttempts); err != nil {
				return "", err
			}
		}
	case !wanted.All():
		after, err := logs.ParsePosition(q.After)
		if err != nil {
			return "", err
		}
		below := "atu" // sorts after all ids of attempts
		if after.AttemptID != "" {
			below = after.AttemptID + "0" // the attempt itself, too
		}
		q.Attempts, err = s.api.LogBooks.AttemptsOf(ctx, org, wanted, below, searchedAttempts)
		if err != nil {
			return "", err
		}
		if n := len(q.Attempts); n == searchedAttempts {
			further = logs.Position{AttemptID: q.Attempts[n-1], Seq: math.MaxInt64 - 1}.String()
		}
	default:
		return "", nil
	}
	if q.Attempts == nil {
		q.Attempts = []string{} // of none, not of all
	}
	return further, nil
}

// found says whose the lines are.
func (s logService) found(ctx context.Context, org string, found []logs.Found) (out []*nimbusv1.FoundLine, err error) {
	known := map[string]logs.Owner{}
	for _, f := range found {
		o, ok := known[f.Key.AttemptID]
		if !ok {
			if o, err = s.api.LogBooks.JobOfLog(ctx, org, f.Key.AttemptID); err != nil {
				return nil, err
			}
			known[f.Key.AttemptID] = o
		}
		l := f.Line
		out = append(out, &nimbusv1.FoundLine{
			JobId: o.JobID, JobName: o.Name, Repo: o.Repo, EarlierAttempt: o.Earlier, AttemptId: f.Key.AttemptID, Seq: l.Seq, At: timestamppb.New(l.At), Stream: string(l.Stream), Step: l.Step, Group: l.Group,
			Level: levels[f.Level], Text: strings.ToValidUTF8(l.Text, "\ufffd"),
		})
	}
	return out, nil
}

func (s logService) GetLogStats(ctx context.Context, r *connect.Request[nimbusv1.GetLogStatsRequest]) (*connect.Response[nimbusv1.GetLogStatsResponse], error) {
	looker, ok := s.api.Logs.(logs.Looker)
	if !ok {
		return nil, nimbus.Errorf(nimbus.CodeUnavailable, "this server's logs can't be counted")
	}
	j, err := s.api.Jobs.Job(ctx, callerOf(ctx).org, r.Msg.GetJobId())
	if err != nil {
		return nil, err
	}
	answer := &nimbusv1.GetLogStatsResponse{Complete: j.LogComplete}
	if j.AttemptID == "" {
		return connect.NewResponse(answer), nil
	}
	c, err := looker.Counts(ctx, nimbus.LogKey{OrgID: j.OrgID, AttemptID: j.AttemptID})
	if err != nil {
		return nil, err
	}
	answer.Lines, answer.Bytes = c.Lines, c.Bytes
	answer.DebugLines, answer.InfoLines, answer.WarnLines, answer.ErrorLines = c.ByLevel[logs.LevelDebug], c.ByLevel[logs.LevelInfo], c.ByLevel[logs.LevelWarn], c.ByLevel[logs.LevelError]
	if c.Lines > 0 {
		answer.FirstAt, answer.LastAt = timestamppb.New(c.First), timestamppb.New(c.Last)
	}
	return connect.NewResponse(answer), nil
}

func (s logService) GetLogRetention(ctx context.Context, _ *connect.Request[nimbusv1.GetLogRetentionRequest]) (*connect.Response[nimbusv1.GetLogRetentionResponse], error) {
	days, own, err := s.api.LogBooks.LogRetention(ctx, callerOf(ctx).org)
	return reply(&nimbusv1.GetLogRetentionResponse{Days: days, IsDefault: !own}, err)
}

func (s logService) SetLogRetention(ctx context.Context, r *connect.Request[nimbusv1.SetLogRetentionRequest]) (*connect.Response[nimbusv1.SetLogRetentionResponse], error) {
	org, days := callerOf(ctx).org, r.Msg.GetDays()
	if r.Msg.GetUseDefault() {
		return reply(&nimbusv1.SetLogRetentionResponse{}, s.api.LogBooks.ClearLogRetention(ctx, org, retentionSet(ctx, org, "default")))
	}
	if err := checkRetention(days); err != nil {
		return nil, err
	}
	return reply(&nimbusv1.SetLogRetentionResponse{}, s.api.LogBooks.SetLogRetention(ctx, org, days, retentionSet(ctx, org, strconv.Itoa(int(days)))))
}

func (s logService) SetDefaultLogRetention(ctx context.Context, r *connect.Request[nimbusv1.SetDefaultLogRetentionRequest]) (*connect.Response[nimbusv1.SetDefaultLogRetentionResponse], error) {
	days := r.Msg.GetDays()
	if err := checkRetention(days); err != nil {
		return nil, err
	}
	return reply(&nimbusv1.SetDefaultLogRetentionResponse{}, s.api.LogBooks.SetLogRetention(ctx, "", days, retentionSet(ctx, "", strconv.Itoa(int(days)))))
}

func checkRetention(days int32) error {
	if days < 0 || days > maxRetention {
		return nimbus.Errorf(nimbus.CodeInvalid, "logs are kept for 1 to %d days, or for ever with 0", maxRetention)
	}
	return nil
}

func retentionSet(ctx context.Context, org, days string) nimbus.AuditEvent {
	c := callerOf(ctx)
	return nimbus.AuditEvent{
		OrgID: org, Actor: c.Actor(), Action: "logs.set_retention", Target: org, Outcome: nimbus.AuditAllowed, Detail: map[string]string{"days": days},
	}
}

// tailFrom is the first of the last lines of a log that ?tail= asks for.
func (a *api) tailFrom(ctx context.Context, key nimbus.LogKey, tail int64) (int64, error) {
	last, err := a.Logs.Acked(ctx, key)
	return max(1, last-tail+1), err
}
