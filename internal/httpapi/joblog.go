package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/bus"
	"github.com/nimbus-ci/nimbus/internal/logs"
)

// lineJSON is a line as readers get it.
type lineJSON struct {
	Seq    int64         `json:"seq"`
	At     time.Time     `json:"at"`
	Stream nimbus.Stream `json:"stream"`
	Step   int32         `json:"step"`
	Group  int32         `json:"group,omitempty"`
	Text   string        `json:"text"`
}

func toJSON(l nimbus.Line) lineJSON {
	return lineJSON{Seq: l.Seq, At: l.At, Stream: l.Stream, Step: l.Step, Group: l.Group, Text: strings.ToValidUTF8(l.Text, "\ufffd")}
}

// Pages of a downloaded log.
const (
	downloadPage = 1000
	maxLimit     = 1 << 40
)

// readLog answers lines as JSON, one a line, or as plain text (?format=text)
// byte for byte as the job wrote them.
func (a *api) readLog(w http.ResponseWriter, r *http.Request) error {
	ctx, org := r.Context(), callerOf(r.Context()).org
	j, err := a.Jobs.Job(ctx, org, r.PathValue("id"))
	if err != nil {
		return err
	}
	from, err := number(r, "from", 1)
	if err != nil {
		return err
	}
	left, err := number(r, "limit", maxLimit)
	if err != nil {
		return err
	}
	text := r.URL.Query().Get("format") == "text"
	w.Header().Set("Content-Type", "application/x-ndjson")
	if text {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	}
	if j.AttemptID == "" {
		return nil
	}
	key := nimbus.LogKey{OrgID: j.OrgID, AttemptID: j.AttemptID}
	if r.URL.Query().Has("tail") {
		tail, err := number(r, "tail", 1)
		if err == nil {
			from, err = a.tailFrom(ctx, key, tail)
		}
		if err != nil {
			return err
		}
	}
	rc, enc := http.NewResponseController(w), json.NewEncoder(w)
	for left > 0 {
		page, err := a.Logs.Read(ctx, key, from, int(min(left, downloadPage)))
		if err != nil || len(page) == 0 {
			return err
		}
		if err := rc.SetWriteDeadline(time.Now().Add(slowReader)); err != nil {
			return fmt.Errorf("bound the reader's time: %w", err)
		}
		for _, l := range page {
			switch {
			case !text:
				err = enc.Encode(toJSON(l))
			case l.Stream == nimbus.StreamStep:
				_, err = fmt.Fprintf(w, "== %s\n", l.Text)
			default:
				_, err = fmt.Fprintln(w, l.Text)
			}
			if err != nil {
				return nil //nolint:nilerr // the reader is gone: nobody to tell
			}
		}
		from, left = page[len(page)-1].Seq+1, left-int64(len(page))
	}
	return nil
}

func number(r *http.Request, name string, without int64) (int64, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return without, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 || n > maxLimit {
		return 0, nimbus.Errorf(nimbus.CodeInvalid, "%s must be a whole number from 1 on", name)
	}
	return n, nil
}

// lookupsApart is how long those wait for each other who follow the same job and look
// whether it is over: a thousand are awake for a tenth of a second.
const lookupsApart = 10 * time.Millisecond

// lostGrace is how long after a job's end the rest of its log is waited for
// before a reader is told that it will not come. Its host may still ship.
const lostGrace = time.Minute

// streamLog follows a job's log: events "attempt" (a new attempt: its lines
// begin at 1), "line" (id "<attempt>:<seq>"), and at last "complete". Complete
// means every line; when lines are lost with their host it says so.
func (a *api) streamLog(w http.ResponseWriter, r *http.Request) error {
	ctx, org := r.Context(), callerOf(r.Context()).org
	j, err := a.Jobs.Job(ctx, org, r.PathValue("id"))
	if err != nil {
		return err
	}
	attempt, after := lastEvent(r)
	if attempt == "" {
		attempt = j.AttemptID
		if after, err = a.begin(r, j); err != nil {
			return err
		}
	}
	s, err := newEventStream(w)
	if err != nil {
		return nil //nolint:nilerr // the reader is gone: nobody to tell
	}
	f := logFollower{api: a, org: org, job: j, send: s.send, comment: s.comment, attempt: attempt, seq: after, quiet: time.Now()}
	if err := f.run(ctx); err != nil {
		return endStream(ctx, a, err)
	}
	return nil
}

// begin is after which line a reader begins who has none: ?from is the first that it
// wants, ?tail how many of the last ones.
func (a *api) begin(r *http.Request, j nimbus.Job) (after int64, err error) {
	from, err := number(r, "from", 1)
	if err != nil {
		return 0, err
	}
	tail, err := number(r, "tail", maxLimit)
	if err != nil || j.AttemptID == "" || tail == maxLimit {
		return from - 1, err
	}
	last, err := a.Logs.Acked(r.Context(), nimbus.LogKey{OrgID: j.OrgID, AttemptID: j.AttemptID})
	if err != nil {
		return 0, err
	}
	return max(from-1, last-tail), nil
}

// lastEvent is where a reader that comes back was.
func lastEvent(r *http.Request) (attempt string, seq int64) {
	return eventPlace(r.Header.Get("Last-Event-ID"))
}

// eventPlace reads the id of an event; attempt is "" if it is none.
func eventPlace(id string) (attempt string, seq int64) {
	attempt, text, ok := strings.Cut(id, ":")
	seq, err := strconv.ParseInt(text, 10, 64)
	if !ok || err != nil || seq < 0 || nimbus.CheckID(nimbus.PrefixAttempt, attempt) != nil {
		return "", 0
	}
	return attempt, seq
}

// logFollower is one reader of one job's log.
type logFollower struct {
	api     *api
	org     string
	job     nimbus.Job
	send    func(...event) error
	comment func() error
	attempt string
	seq     int64
	quiet   time.Time // when something was sent last
	window  *frameWindow
}

func (f *logFollower) run(ctx context.Context) error {
	for {
		if f.job.AttemptID == "" {
			if f.job.State == nimbus.StateFinished {
				return f.complete()
			}
			if err := f.awaitChange(ctx); err != nil {
				return err
			}
			continue
		}
		if f.job.AttemptID != f.attempt {
			f.attempt, f.seq = f.job.AttemptID, 0
		}
		err := f.say(event{name: "attempt", id: f.id(), data: map[string]string{"attempt_id": f.attempt}})
		if err != nil {
			return err
		}
		key := nimbus.LogKey{OrgID: f.job.OrgID, AttemptID: f.attempt}
		if err := f.tail(ctx, key); err != nil {
			return err
		}
		if f.job.AttemptID == f.attempt {
			return f.complete()
		}
	}
}

// tail follows the log of one attempt.
func (f *logFollower) tail(ctx context.Context, key nimbus.LogKey) error {
	window, leave := f.api.frames.follow(key)
	defer leave()
	f.window = window
	return logs.Tail(ctx, f.api.followed, f.api.Bus, key, f.seq+1, f.over, f.lines)
}

func (f *logFollower) id() string { return f.attempt + ":" + strconv.FormatInt(f.seq, 10) }

func (f *logFollower) say(events ...event) error {
	f.quiet = time.Now()
	return f.send(events...)
}

// over tells whether no more lines will come of this attempt.
func (f *logFollower) over(ctx context.Context) (bool, error) {
	if time.Since(f.quiet) > keepAlive {
		f.quiet = time.Now()
		if err := f.comment(); err != nil {
			return false, err
		}
	}
	j, err := f.api.jobs.do(ctx, f.org+"/"+f.job.ID, func(ctx context.Context) (nimbus.Job, error) {
		return f.api.Jobs.Job(ctx, f.org, f.job.ID)
	})
	if err != nil {
		return false, err
	}
	f.job = j
	if j.AttemptID != f.attempt || j.State == nimbus.StateFinished && (j.LogComplete || j.Result == nimbus.ResultLost) {
		return true, nil
	}
	return j.State == nimbus.StateFinished && time.Since(j.Timeline.FinishedAt) > lostGrace, nil
}

func (f *logFollower) lines(page []nimbus.Line) error {
	events, err := f.api.frames.events(f.window, f.attempt, page)
	if err != nil {
		return err
	}
	f.seq = page[len(page)-1].Seq
	return f.say(events...)
}

func (f *logFollower) complete() error {
	return f.say(event{name: "complete", data: map[string]any{
		"complete": f.job.LogComplete || f.job.AttemptID == "", "result": f.job.Result, "lines": f.seq,
	}})
}

// awaitChange waits until the job may have changed, and reads it anew.
func (f *logFollower) awaitChange(ctx context.Context) error {
	sub := f.api.Bus.Subscribe(bus.JobsTopic(f.org))
	defer sub.Close()
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case <-sub.C:
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	_, err := f.over(ctx)
	return err
}
