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
	stepName     = 200      // characters of one that are shown
	batchesRead  = 8        // at once: each may be large
	answerBudget = 16 << 20 // of all texts in it, and what they take beside
	pageBudget   = 8 << 20
	// readBudget bounds the work for one answer: the memory that batches took which
	// were opened for it, one after the other, with something for each one.
	readBudget = 256 << 20
	batchCost  = 16 << 10
	// readsAtOnce is how many readers have batches in memory: opened, one may take
	// some hundred MiB. The others wait.
	readsAtOnce = 3
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
	_, err = s.each(ctx, orgID, jobID, nimbus.SignalTraces, Position{}, func(at Position, b *otlp.Batch) bool {
		for _, span := range b.Spans() {
			if known[span.TraceID+span.SpanID] {
				seen++
				continue
			}
			if budget -= weight(span); len(all) == limit || budget < 0 {
				return false
			}
			seen++
			known[span.TraceID+span.SpanID] = true
			span.AttemptID = at.AttemptID
			all = append(all, span)
		}
		return true
	})
	return all, seen, err
}

// What things take in an answer beside their texts: many may have none.
const (
	itemWeight = 128 // ids, times, numbers
	pairWeight = 32
)

func weight(s nimbus.Span) int {
	n := itemWeight + len(s.Name) + len(s.StatusMessage) + len(s.Service) + len(s.Scope) + weightOf(s.Attributes)
	for _, e := range s.Events {
		n += pairWeight + len(e.Name) + weightOf(e.Attributes)
	}
	return n
}

func weightOfLog(l nimbus.TelemetryLog) int {
	return itemWeight + len(l.Severity) + len(l.EventName) + len(l.Body) + len(l.Service) + weightOf(l.Attributes)
}

func weightOfPoint(p nimbus.MetricPoint) int {
	return itemWeight + len(p.Name) + len(p.Unit) + len(p.Service) + weightOf(p.Attributes)
}

func weightOf(attributes map[string]string) (n int) {
	for key, value := range attributes {
		n += pairWeight + len(key) + len(value)
	}
	return n
}

// each calls f with batches from one on until it has enough, or until as many were
// opened as may be for one answer: rest is then the first that was not. One that
// can't be read is told and passed over: the others are none the worse.
func (s *Service) each(ctx context.Context, orgID, jobID string, signal nimbus.Signal, after Position, f func(Position, *otlp.Batch) bool) (rest Position, err error) {
	e := eachBatch{s: s, orgID: orgID, jobID: jobID, signal: signal, after: after, budget: s.readBudget, f: f}
	for more := true; more; {
		if more, err = e.some(ctx); err != nil {
			return Position{}, err
		}
	}
	return e.rest, nil
}

// eachBatch is one going through batches.
type eachBatch struct {
	s            *Service
	orgID, jobID string
	signal       nimbus.Signal
	after, rest  Position
	budget       int
	f            func(Position, *otlp.Batch) bool
}

// some goes through the next few batches, while no more than a few readers do. It
// returns false at the end.
func (e *eachBatch) some(ctx context.Context) (more bool, err error) {
	select {
	case e.s.reading <- struct{}{}:
	case <-ctx.Done():
		return false, fmt.Errorf("wait to read telemetry: %w", ctx.Err())
	}
	defer func() { <-e.s.reading }()
	batches, err := e.s.Store.TelemetryBatches(ctx, e.orgID, e.jobID, e.signal, e.after, batchesRead)
	if err != nil {
		return false, err
	}
	for _, stored := range batches {
		if e.budget < 0 {
			e.rest = stored.Position
			return false, nil
		}
		if err := ctx.Err(); err != nil {
			return false, fmt.Errorf("read telemetry: %w", err) // nobody waits for it
		}
		e.after = stored.Position
		b, err := otlp.Open(e.signal, stored.Data)
		if err != nil {
			e.budget -= batchCost + len(stored.Data)
			e.s.Log.WarnContext(ctx, "a batch of telemetry can't be read", "job", e.jobID, "attempt", e.after.AttemptID, "batch", e.after.Seq, "error", err)
			continue
		}
		e.budget -= batchCost + b.Cost()
		if !e.f(e.after, b) {
			return false, nil
		}
	}
	return len(batches) == batchesRead, nil
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
	rest, err := s.each(ctx, orgID, jobID, signal, Position{from.AttemptID, from.Seq - 1}, func(at Position, b *otlp.Batch) bool {
		if at != from {
			skip = 0
		}
		return r.take(at, b, skip)
	})
	if rest != (Position{}) {
		page.Next = tokenOf(rest, 0)
	}
	return page, err
}

// pageReader fills a page.
type pageReader struct {
	page         *nimbus.TelemetryPage
	left, budget int
}

func tokenOf(at Position, item int) string {
	return fmt.Sprintf("%s:%d:%d", at.AttemptID, at.Seq, item)
}

// take adds what a batch has from an item on. It returns false once the page is
// full, with where to go on. A page has one item at least, whatever that weighs.
func (r *pageReader) take(at Position, b *otlp.Batch, skip int) bool {
	full := func(i, weight int) bool {
		if some := len(r.page.Logs)+len(r.page.Points) > 0; r.left == 0 || some && weight > r.budget {
			r.page.Next = tokenOf(at, i)
			return true
		}
		r.left, r.budget = r.left-1, r.budget-weight
		return false
	}
	for i, l := range b.Logs() {
		if i >= skip {
			if full(i, weightOfLog(l)) {
				return false
			}
			r.page.Logs = append(r.page.Logs, l)
		}
	}
	for i, p := range b.Points() {
		if i >= skip {
			if full(i, weightOfPoint(p)) {
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
