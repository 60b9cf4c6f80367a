package client

import (
	"context"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// LogQuery says which lines of the org's logs are wanted. Its zero value wants all.
type LogQuery struct {
	Text    string
	Pattern bool // Text is a regular expression (RE2)
	JobID   string
	Repo    string
	// Metadata is of the jobs: all of it; an empty value stands for any.
	Metadata map[string]string
	Step     int32
	Streams  []nimbus.Stream
	Level    string // at least: "debug", "info", "warn", "error"
	Since    time.Time
	Until    time.Time
}

// FoundLine is a line that a search found.
type FoundLine struct {
	JobID     string // "" for a job that is forgotten
	Repo      string
	AttemptID string
	Level     string
	Line      nimbus.Line
}

// foundPage is how many lines are asked for at once.
const foundPage = 200

// SearchLogs returns the lines of the org's logs that are asked for: newest attempts
// first, the lines of each in their order. It ends after the first error.
func (c *Client) SearchLogs(ctx context.Context, q LogQuery) iter.Seq2[FoundLine, error] {
	return func(yield func(FoundLine, error) bool) {
		r := &nimbusv1.SearchLogsRequest{
			Text: q.Text, Pattern: q.Pattern, JobId: q.JobID, Repo: q.Repo, Metadata: q.Metadata, Step: q.Step, Level: q.Level, PageSize: foundPage,
		}
		for _, s := range q.Streams {
			r.Streams = append(r.Streams, string(s))
		}
		if !q.Since.IsZero() {
			r.Since = timestamppb.New(q.Since)
		}
		if !q.Until.IsZero() {
			r.Until = timestamppb.New(q.Until)
		}
		for {
			answer, err := call(ctx, c.logs.SearchLogs, r)
			if err != nil {
				yield(FoundLine{}, err)
				return
			}
			for _, l := range answer.GetLines() {
				f := FoundLine{JobID: l.GetJobId(), Repo: l.GetRepo(), AttemptID: l.GetAttemptId(), Level: l.GetLevel(), Line: nimbus.Line{
					Seq: l.GetSeq(), At: l.GetAt().AsTime(), Stream: nimbus.Stream(l.GetStream()), Step: l.GetStep(), Group: l.GetGroup(), Text: l.GetText(),
				}}
				if !yield(f, nil) {
					return
				}
			}
			if r.PageToken = answer.GetNextPageToken(); r.PageToken == "" {
				return
			}
		}
	}
}

// LogRetention is for how many days the org's logs are kept, 0 for ever; own says that
// this is the org's own.
func (c *Client) LogRetention(ctx context.Context) (days int32, own bool, err error) {
	answer, err := call(ctx, c.logs.GetLogRetention, &nimbusv1.GetLogRetentionRequest{})
	return answer.GetDays(), !answer.GetIsDefault(), err
}

// SetLogRetention says for how many days. Codes: forbidden, invalid.
func (c *Client) SetLogRetention(ctx context.Context, days int32) error {
	_, err := call(ctx, c.logs.SetLogRetention, &nimbusv1.SetLogRetentionRequest{Days: days})
	return err
}

// ClearLogRetention gives up what the org has of its own. Codes: forbidden.
func (c *Client) ClearLogRetention(ctx context.Context) error {
	_, err := call(ctx, c.logs.SetLogRetention, &nimbusv1.SetLogRetentionRequest{UseDefault: true})
	return err
}

// SetDefaultLogRetention says for how many days logs are kept of orgs that have none
// of their own. Codes: forbidden, invalid.
func (c *Client) SetDefaultLogRetention(ctx context.Context, days int32) error {
	_, err := call(ctx, c.logs.SetDefaultLogRetention, &nimbusv1.SetDefaultLogRetentionRequest{Days: days})
	return err
}

// damagedLines is the trailer that says how many lines of a log can't be read.
const damagedLines = "Nimbus-Damaged-Lines"

// RawLog writes the log of a job's last attempt as the job wrote it, byte for byte, with
// the names of steps between. Where lines are damaged on the server one stands that says
// so, and damaged is how many they are.
func (c *Client) RawLog(ctx context.Context, jobID string, to io.Writer) (damaged int64, err error) {
	answer, err := c.do(ctx, http.MethodGet, "/api/v1/jobs/"+url.PathEscape(jobID)+"/log", url.Values{"format": {"text"}}, nil, nil)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(to, answer.Body); err != nil {
		return 0, nimbus.Errorf(nimbus.CodeUnavailable, "the log broke off: %w", err)
	}
	if text := answer.Trailer.Get(damagedLines); text != "" {
		if damaged, err = strconv.ParseInt(text, 10, 64); err != nil {
			return 0, nimbus.Errorf(nimbus.CodeUnavailable, "the log's end is not understood: %w", err)
		}
	}
	return damaged, nil
}
