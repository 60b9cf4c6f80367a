package traces

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/telemetry/otlp"
)

// Bounds of one answer.
const (
	usualSpans   = 2000
	mostSpans    = 10_000
	usualPage    = 200
	mostPage     = 1000
	mostSteps    = 500
	batchesRead  = 8       // at once: each may be large
	answerBudget = 6 << 20 // of attributes and events, as text
	pageBudget   = 4 << 20
)

// Trace is a job's life with the spans that its processes sent: by when they began,
// of those that came first. Codes: not_found, invalid.
func (s *Service) Trace(ctx context.Context, orgID, jobID string, limit int) (nimbus.Trace, error) {
	if limit < 0 || limit > mostSpans {
		return nimbus.Trace{}, nimbus.Errorf(nimbus.CodeInvalid, "at most %d spans are returned", mostSpans)
	}
	limit = cmp.Or(limit, usualSpans)
	j, err := s.Jobs.Job(ctx, orgID, jobID)
	if err != nil {
		return nimbus.Trace{}, err
	}
	counts, err := s.Store.CountTelemetry(ctx, orgID, jobID)
	if err != nil {
		return nimbus.Trace{}, err
	}
	life := Life(&j)
	out := nimbus.Trace{Spans: life, Sent: counts[nimbus.SignalTraces], Logs: counts[nimbus.SignalLogs], Points: counts[nimbus.SignalMetrics]}
	trace := nimbus.TraceID(jobID)
	out.ID = fmt.Sprintf("%x", trace[:])
	if s.Steps != nil && j.AttemptID != "" {
		lines, err := s.Steps(ctx, nimbus.LogKey{OrgID: orgID, AttemptID: j.AttemptID}, mostSteps)
		if err != nil {
			return out, fmt.Errorf("read the job's steps: %w", err)
		}
		out.Spans = append(out.Spans, stepSpans(&j, lines)...)
	}
	sent, seen, err := s.sentSpans(ctx, orgID, jobID, limit)
	if err != nil {
		return out, err
	}
	out.Spans, out.LeftOut = append(out.Spans, sent...), max(out.Sent-seen, 0)
	slices.SortStableFunc(out.Spans, func(a, b nimbus.Span) int { return a.Start.Compare(b.Start) })
	return out, nil
}

// sentSpans are the first spans that a job's processes sent, each once, though a
// sender that heard no answer sends again. seen is how many were looked at.
func (s *Service) sentSpans(ctx context.Context, orgID, jobID string, limit int) (all []nimbus.Span, seen int64, err error) {
	known, budget := map[string]bool{}, answerBudget
	err = s.each(ctx, orgID, jobID, nimbus.SignalTraces, Position{}, func(at Position, b *otlp.Batch) bool {
		for _, span := range b.Spans() {
			if known[span.TraceID+span.SpanID] {
				seen++
				continue
			}
			if len(all) == limit {
				return false
			}
			seen++
			known[span.TraceID+span.SpanID] = true
			if budget -= weight(span); budget < 0 {
				span.Attributes, span.Events = nil, nil
			}
			span.AttemptID = at.AttemptID
			all = append(all, span)
		}
		return true
	})
	return all, seen, err
}

func weight(s nimbus.Span) int {
	n := len(s.Name) + len(s.StatusMessage) + weightOf(s.Attributes)
	for _, e := range s.Events {
		n += len(e.Name) + weightOf(e.Attributes)
	}
	return n
}

func weightOf(attributes map[string]string) (n int) {
	for key, value := range attributes {
		n += len(key) + len(value)
	}
	return n
}

// each calls f with batches from one on until it has enough. One that can't be read
// is told and passed over: the others are none the worse.
func (s *Service) each(ctx context.Context, orgID, jobID string, signal nimbus.Signal, after Position, f func(Position, *otlp.Batch) bool) error {
	for {
		batches, err := s.Store.TelemetryBatches(ctx, orgID, jobID, signal, after, batchesRead)
		if err != nil {
			return err
		}
		for _, stored := range batches {
			after = stored.Position
			b, err := otlp.Open(signal, stored.Data)
			if err != nil {
				s.Log.WarnContext(ctx, "a batch of telemetry can't be read", "job", jobID, "attempt", after.AttemptID, "batch", after.Seq, "error", err)
				continue
			}
			if !f(after, b) {
				return nil
			}
		}
		if len(batches) < batchesRead {
			return nil
		}
	}
}

// Page is a part of the log records, or of the points of metrics, that a job's
// processes sent, in the order in which they came. Codes: not_found, invalid.
func (s *Service) Page(ctx context.Context, orgID, jobID string, signal nimbus.Signal, size int, token string) (page nimbus.TelemetryPage, err error) {
	if size < 0 || size > mostPage {
		return page, nimbus.Errorf(nimbus.CodeInvalid, "a page has at most %d", mostPage)
	}
	if signal != nimbus.SignalLogs && signal != nimbus.SignalMetrics {
		return page, nimbus.Errorf(nimbus.CodeInvalid, "there are logs and metrics")
	}
	from, skip, err := parseToken(token)
	if err != nil {
		return page, err
	}
	if _, err := s.Jobs.Job(ctx, orgID, jobID); err != nil {
		return page, err
	}
	r := pageReader{page: &page, left: cmp.Or(size, usualPage), budget: pageBudget}
	err = s.each(ctx, orgID, jobID, signal, Position{from.AttemptID, from.Seq - 1}, func(at Position, b *otlp.Batch) bool {
		if at != from {
			skip = 0
		}
		return r.take(at, b, skip)
	})
	return page, err
}

// pageReader fills a page.
type pageReader struct {
	page         *nimbus.TelemetryPage
	left, budget int
}

// take adds what a batch has from an item on. It returns false once the page is
// full, with where to go on.
func (r *pageReader) take(at Position, b *otlp.Batch, skip int) bool {
	full := func(i, weight int) bool {
		if r.left == 0 || r.budget < 0 {
			r.page.Next = fmt.Sprintf("%s:%d:%d", at.AttemptID, at.Seq, i)
			return true
		}
		r.left, r.budget = r.left-1, r.budget-weight
		return false
	}
	for i, l := range b.Logs() {
		if i >= skip {
			if full(i, len(l.Body)+weightOf(l.Attributes)) {
				return false
			}
			r.page.Logs = append(r.page.Logs, l)
		}
	}
	for i, p := range b.Points() {
		if i >= skip {
			if full(i, weightOf(p.Attributes)) {
				return false
			}
			r.page.Points = append(r.page.Points, p)
		}
	}
	return true
}

// parseToken reads where a page begins. Codes: invalid.
func parseToken(token string) (from Position, skip int, err error) {
	if token == "" {
		return Position{}, 0, nil
	}
	bad := nimbus.Errorf(nimbus.CodeInvalid, "the page token is not one of ours")
	parts := strings.Split(token, ":")
	if len(parts) != 3 || nimbus.CheckID(nimbus.PrefixAttempt, parts[0]) != nil {
		return Position{}, 0, bad
	}
	from.AttemptID = parts[0]
	if from.Seq, err = strconv.ParseInt(parts[1], 10, 64); err != nil || from.Seq < 1 {
		return Position{}, 0, bad
	}
	if skip, err = strconv.Atoi(parts[2]); err != nil || skip < 0 {
		return Position{}, 0, bad
	}
	return from, skip, nil
}
