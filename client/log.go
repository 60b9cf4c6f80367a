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

// Log returns the lines of a job's last attempt that are stored by now, from
// the one with number from on. It ends after the first error.
func (c *Client) Log(ctx context.Context, jobID string, from int64) iter.Seq2[nimbus.Line, error] {
	return func(yield func(nimbus.Line, error) bool) {
		for {
			lines, err := c.logPage(ctx, jobID, from)
			if err != nil {
				yield(nimbus.Line{}, err)
				return
			}
			for _, l := range lines {
				if !yield(l, nil) {
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

func (c *Client) logPage(ctx context.Context, jobID string, from int64) ([]nimbus.Line, error) {
	return c.logLines(ctx, jobID, url.Values{"from": {strconv.FormatInt(from, 10)}, "limit": {strconv.Itoa(logPage)}})
}

func (c *Client) logLines(ctx context.Context, jobID string, query url.Values) ([]nimbus.Line, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := c.do(ctx, http.MethodGet, "/api/v1/jobs/"+url.PathEscape(jobID)+"/log", query, nil, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	// A line is escaped at most sixfold.
	dec := json.NewDecoder(io.LimitReader(resp.Body, logPage*(6*nimbus.MaxLineBytes+256)))
	var lines []nimbus.Line
	for len(lines) < logPage {
		var l logLine
		if err := dec.Decode(&l); errors.Is(err, io.EOF) {
			return lines, nil
		} else if err != nil {
			return nil, nimbus.Errorf(nimbus.CodeUnavailable, "the log broke off: %w", wire.Unreachable(err))
		}
		lines = append(lines, l.line())
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
}

func (l logLine) line() nimbus.Line { return nimbus.Line(l) }

// LogEventKind is what a LogEvent tells.
type LogEventKind string

// The kinds.
const (
	LogAttempt     LogEventKind = "attempt"     // an attempt begins; lines of one before it are void
	LogLine        LogEventKind = "line"        // one line
	LogComplete    LogEventKind = "complete"    // the job ended and no more lines will come: the last event
	LogInterrupted LogEventKind = "interrupted" // the connection broke; it is being made again
)

// LogEvent is one step of a log that is followed.
type LogEvent struct {
	Kind      LogEventKind
	AttemptID string      // with LogAttempt
	Line      nimbus.Line // with LogLine
	Whole     bool        // with LogComplete: every line was sent, none was lost with its host
	Err       error       // with LogInterrupted: why
}

// FollowLog follows a job's log to its end, and waits for a job that did not
// begin yet. Lines come once and in order, however often the connection breaks.
// It ends after LogComplete, or with the first error that trying again would
// not mend.
func (c *Client) FollowLog(ctx context.Context, jobID string) iter.Seq2[LogEvent, error] {
	return func(yield func(LogEvent, error) bool) {
		f := &follower{client: c, jobID: jobID, yield: yield}
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

	lastID    string // of the last event that had one
	attemptID string
	seq       int64 // of the last line
	complete  bool
	progress  bool // since the last connection was made
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
	resp, err := f.client.do(ctx, http.MethodGet, "/api/v1/jobs/"+url.PathEscape(f.jobID)+"/log/stream", nil, header, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	f.progress = true
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
	case "complete":
		var c struct {
			Complete bool `json:"complete"`
		}
		if err := json.Unmarshal(e.data, &c); err != nil {
			return fmt.Errorf("read log event: %w", err)
		}
		f.complete = true
		out = LogEvent{Kind: LogComplete, Whole: c.Complete}
	default:
		return nil // of a newer server
	}
	if e.id != "" {
		f.lastID = e.id
	}
	if !f.yield(out, nil) {
		return errStop
	}
	return nil
}
