package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// logPage is how many lines are asked for at once.
const logPage = 1000

// DamagedLinesError says that lines First to Last of a log are damaged on the server and
// can't be read.
type DamagedLinesError struct{ First, Last int64 }

func (e *DamagedLinesError) Error() string {
	if e.First == e.Last {
		return fmt.Sprintf("line %d is damaged on the server and can't be read", e.First)
	}
	return fmt.Sprintf("lines %d to %d are damaged on the server and can't be read", e.First, e.Last)
}

// Log returns the lines of a job's last attempt that are stored by now, from
// the one with number from on. It ends after the first error, but for a
// DamagedLinesError: who asks for more gets what lies behind.
func (c *Client) Log(ctx context.Context, jobID string, from int64) iter.Seq2[nimbus.Line, error] {
	return func(yield func(nimbus.Line, error) bool) {
		for {
			lines, err := c.logPage(ctx, jobID, from)
			if err != nil {
				yield(nimbus.Line{}, err)
				return
			}
			for _, l := range lines {
				if !yield(l.told()) {
					return
				}
				from = l.Seq + 1
			}
			if len(lines) < logPage {
				return
			}
		}
	}
}

// LogTail returns the last lines of a job's last attempt, at most 1000. It ends as Log
// does.
func (c *Client) LogTail(ctx context.Context, jobID string, lines int) iter.Seq2[nimbus.Line, error] {
	return func(yield func(nimbus.Line, error) bool) {
		tail, err := c.logLines(ctx, jobID, url.Values{"tail": {strconv.Itoa(min(lines, logPage))}, "limit": {strconv.Itoa(logPage)}})
		if err != nil {
			yield(nimbus.Line{}, err)
			return
		}
		for _, l := range tail {
			if !yield(l.told()) {
				return
			}
		}
	}
}

func (c *Client) logPage(ctx context.Context, jobID string, from int64) ([]logLine, error) {
	return c.logLines(ctx, jobID, url.Values{"from": {strconv.FormatInt(from, 10)}, "limit": {strconv.Itoa(logPage)}})
}

func (c *Client) logLines(ctx context.Context, jobID string, query url.Values) ([]logLine, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := c.do(ctx, http.MethodGet, "/api/v1/jobs/"+url.PathEscape(jobID)+"/log", query, nil, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	// A line is escaped at most sixfold.
	dec := json.NewDecoder(io.LimitReader(resp.Body, logPage*(6*nimbus.MaxLineBytes+256)))
	var lines []logLine
	for len(lines) < logPage {
		var l logLine
		if err := dec.Decode(&l); errors.Is(err, io.EOF) {
			return lines, nil
		} else if err != nil {
			return nil, nimbus.Errorf(nimbus.CodeUnavailable, "the log broke off: %w", wire.Unreachable(err))
		}
		lines = append(lines, l)
	}
	return lines, nil
}

// logLine is a line as the server writes it.
type logLine struct {
	Seq    int64         `json:"seq"`
	At     time.Time     `json:"at"`
	Stream nimbus.Stream `json:"stream"`
	Step   int32         `json:"step"`
	Group  int32         `json:"group,omitempty"`
	Text   string        `json:"text"`
	// DamagedFrom: it stands for lines that can't be read, this one the first of them.
	DamagedFrom int64 `json:"damaged_from"`
}

func (l logLine) line() nimbus.Line {
	return nimbus.Line{Seq: l.Seq, At: l.At, Stream: l.Stream, Step: l.Step, Group: l.Group, Text: l.Text}
}

// told is a line, or that it can't be read.
func (l logLine) told() (nimbus.Line, error) {
	if l.DamagedFrom > 0 {
		return nimbus.Line{}, &DamagedLinesError{First: l.DamagedFrom, Last: l.Seq}
	}
	return l.line(), nil
}

// LogEventKind is what a LogEvent tells.
type LogEventKind string

// The kinds.
const (
	LogAttempt     LogEventKind = "attempt"     // an attempt begins; lines of one before it are void
	LogLine        LogEventKind = "line"        // one line
	LogDamaged     LogEventKind = "damaged"     // lines that can't be read; the next is behind them
	LogComplete    LogEventKind = "complete"    // the job ended and no more lines will come: the last event
	LogInterrupted LogEventKind = "interrupted" // the connection broke; it is being made again
)

// LogEvent is one step of a log that is followed.
type LogEvent struct {
	Kind      LogEventKind
	AttemptID string      // with LogAttempt
	Line      nimbus.Line // with LogLine
	Whole     bool        // with LogComplete: every line is there, none was lost with its host
	Gone      int64       // with LogComplete: how many lines at its end the server had and has no longer
	Err       error       // with LogInterrupted: why; with LogDamaged a DamagedLinesError
}

// FollowLog follows a job's log to its end, and waits for a job that did not
// begin yet. Lines come once and in order, however often the connection breaks.
// It ends after LogComplete, or with the first error that trying again would
// not mend.
func (c *Client) FollowLog(ctx context.Context, jobID string) iter.Seq2[LogEvent, error] {
	return c.FollowLogTail(ctx, jobID, 0)
}

// FollowLogTail is FollowLog, which begins with so many of the lines that are there by
// now, the last ones; 0: with all.
func (c *Client) FollowLogTail(ctx context.Context, jobID string, lines int) iter.Seq2[LogEvent, error] {
	return func(yield func(LogEvent, error) bool) {
		f := &follower{client: c, jobID: jobID, yield: yield}
		if lines > 0 {
			f.query = url.Values{"tail": {strconv.Itoa(lines)}}
		}
		if err := f.run(ctx); err != nil && !errors.Is(err, errStop) {
			yield(LogEvent{}, err)
		}
	}
}

// errStop ends a follower whose reader has had enough.
var errStop = errors.New("stop")

// follower holds how far a log was followed, over all connections.
type follower struct {
	client *Client
	jobID  string
	yield  func(LogEvent, error) bool
	query  url.Values

	lastID    string // of the last event that had one
	attemptID string
	seq       int64 // of the last line
	complete  bool
	progress  bool // something new came over the last connection, or it lasted
}

// Bounds of trying again.
const (
	firstPause = 200 * time.Millisecond
	longPause  = 5 * time.Second
	// silence is how long a stream may say nothing, not even a comment, until
	// it counts as broken. The server comments more often.
	silence = time.Minute
)

func (f *follower) run(ctx context.Context) error {
	pause, lost := firstPause, time.Time{}
	for {
		err := f.connect(ctx)
		switch {
		case f.complete:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, errStop):
			return err
		case err != nil && nimbus.ErrorCode(err) != nimbus.CodeUnavailable && nimbus.ErrorCode(err) != nimbus.CodeRateLimited:
			return err
		}
		if f.progress {
			pause, lost = firstPause, time.Time{}
		}
		if lost.IsZero() {
			lost = time.Now()
		} else if time.Since(lost) > f.client.patience {
			return err
		}
		if !f.yield(LogEvent{Kind: LogInterrupted, Err: err}, nil) {
			return errStop
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
		pause = min(2*pause, longPause)
	}
}

// connect follows over one connection, until it breaks.
func (f *follower) connect(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	header := http.Header{"Accept": {"text/event-stream"}}
	if f.lastID != "" {
		header.Set("Last-Event-ID", f.lastID)
	}
	f.progress = false
	resp, err := f.client.do(ctx, http.MethodGet, "/api/v1/jobs/"+url.PathEscape(f.jobID)+"/log/stream", f.query, header, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	// One that ends each time before it says anything new is none that works.
	began := time.Now()
	defer func() { f.progress = f.progress || time.Since(began) > longPause }()
	quiet := time.AfterFunc(silence, func() {
		cancel(nimbus.Errorf(nimbus.CodeUnavailable, "the server said nothing for %s", silence))
	})
	defer quiet.Stop()
	events := newEventReader(resp.Body, func() { quiet.Reset(silence) })
	for !f.complete {
		event, err := events.next()
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return nimbus.Errorf(nimbus.CodeUnavailable, "the log's stream broke off: %w", wire.Unreachable(err))
		}
		if err := f.take(event); err != nil {
			return err
		}
	}
	return nil
}

// take hands on one event, unless it came before.
func (f *follower) take(e event) error {
	var out LogEvent
	switch e.name {
	case "attempt":
		var a struct {
			AttemptID string `json:"attempt_id"`
		}
		if err := json.Unmarshal(e.data, &a); err != nil {
			return fmt.Errorf("read log event: %w", err)
		}
		if a.AttemptID == f.attemptID {
			return nil
		}
		f.attemptID, f.seq = a.AttemptID, 0
		out = LogEvent{Kind: LogAttempt, AttemptID: a.AttemptID}
	case "line":
		var l logLine
		if err := json.Unmarshal(e.data, &l); err != nil {
			return fmt.Errorf("read log event: %w", err)
		}
		if l.Seq <= f.seq {
			return nil
		}
		f.seq = l.Seq
		out = LogEvent{Kind: LogLine, Line: l.line()}
	case "damaged":
		var d struct {
			First int64 `json:"first"`
			Last  int64 `json:"last"`
		}
		if err := json.Unmarshal(e.data, &d); err != nil {
			return fmt.Errorf("read log event: %w", err)
		}
		if d.Last <= f.seq {
			return nil
		}
		d.First = max(d.First, f.seq+1)
		f.seq = d.Last
		out = LogEvent{Kind: LogDamaged, Err: &DamagedLinesError{First: d.First, Last: d.Last}}
	case "complete":
		var c struct {
			Complete bool  `json:"complete"`
			Lines    int64 `json:"lines"`
			Stored   int64 `json:"stored"`
		}
		if err := json.Unmarshal(e.data, &c); err != nil {
			return fmt.Errorf("read log event: %w", err)
		}
		f.complete = true
		out = LogEvent{Kind: LogComplete, Whole: c.Complete, Gone: max(0, c.Stored-c.Lines)}
	case "fault":
		var fault struct {
			Code    nimbus.Code `json:"code"`
			Message string      `json:"message"`
		}
		if err := json.Unmarshal(e.data, &fault); err != nil {
			return fmt.Errorf("read log event: %w", err)
		}
		return nimbus.Errorf(fault.Code, "the log can't be read: %s", fault.Message)
	default:
		return nil // of a newer server
	}
	f.progress = true
	if e.id != "" {
		f.lastID = e.id
	}
	if !f.yield(out, nil) {
		return errStop
	}
	return nil
}
