package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
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

// damagedJSON stands for lines that can't be read: to who knows nothing of such, it is a
// line that says so.
type damagedJSON struct {
	Seq    int64         `json:"seq"` // the last of them
	From   int64         `json:"damaged_from"`
	At     time.Time     `json:"at,omitzero"`
	Stream nimbus.Stream `json:"stream"`
	Text   string        `json:"text"`
}

func damageJSON(d *logs.DamagedError) damagedJSON {
	return damagedJSON{Seq: d.Last, From: d.First, Stream: nimbus.StreamSystem, Text: damageWords(d)}
}

func damageWords(d *logs.DamagedError) string {
	return fmt.Sprintf("lines %d to %d are damaged on the server and can't be read", d.First, d.Last)
}

// damagedLines is the trailer of a log as text: how many of its lines can't be read.
const damagedLines = "Nimbus-Damaged-Lines"

// tellDamage tells who runs the server of lines that somebody asked for and can't have.
func (a *api) tellDamage(ctx context.Context, attempt string, d *logs.DamagedError) {
	a.Log.ErrorContext(ctx, "lines of a log can't be read", "attempt", attempt, "first", d.First, "last", d.Last, "error", d.Err)
}

// Pages of a downloaded log.
const (
	downloadPage = 1000
	maxLimit     = 1 << 40
)

// readLog answers lines as JSON, one a line, or as plain text (?format=text)
// as the job wrote them. Lines that are damaged are told in their place.
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
	text := false
	switch format := r.URL.Query().Get("format"); format {
	case "", "json":
		w.Header().Set("Content-Type", "application/x-ndjson")
	case "text":
		text = true
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Trailer", damagedLines)
	default:
		return nimbus.Errorf(nimbus.CodeInvalid, "a log has no format %.40q", format).WithHint("text, or json, which is what it is without")
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
	out := logWriter{to: w, rc: http.NewResponseController(w), json: json.NewEncoder(w), text: text}
	bad := int64(0)
	for left > 0 {
		page, damaged, err := logs.ReadOn(ctx, a.Logs, key, from, int(min(left, downloadPage)))
		switch {
		case err != nil:
			return err
		case damaged != nil:
			a.tellDamage(ctx, key.AttemptID, damaged)
			err = out.damaged(damaged)
			bad += damaged.Last - damaged.First + 1
			from, left = damaged.Last+1, left-1
		case len(page) == 0:
			left = 0
		default:
			err = out.lines(page)
			from, left = page[len(page)-1].Seq+1, left-int64(len(page))
		}
		if err != nil {
			return nil //nolint:nilerr // the reader is gone: nobody to tell
		}
	}
	if text && bad > 0 {
		w.Header().Set(damagedLines, strconv.FormatInt(bad, 10))
	}
	return nil
}

// logWriter writes a log for who asked for it.
type logWriter struct {
	to   io.Writer
	rc   *http.ResponseController
	json *json.Encoder
	text bool
}

func (o *logWriter) wait() error { return o.rc.SetWriteDeadline(time.Now().Add(slowReader)) }

func (o *logWriter) lines(page []nimbus.Line) error {
	err := o.wait()
	for _, l := range page {
		switch {
		case err != nil:
			return err
		case !o.text:
			err = o.json.Encode(toJSON(l))
		case l.Stream == nimbus.StreamStep:
			_, err = fmt.Fprintf(o.to, "== %s\n", l.Text)
		default:
			_, err = fmt.Fprintln(o.to, l.Text)
		}
	}
	return err
}

func (o *logWriter) damaged(d *logs.DamagedError) error {
	err := o.wait()
	switch {
	case err != nil:
	case o.text:
		_, err = fmt.Fprintf(o.to, "== %s\n", damageWords(d))
	default:
		err = o.json.Encode(damageJSON(d))
	}
	return err
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
// begin at 1), "line" (id "<attempt>:<seq>"), "damaged" (lines that can't be read), and
// at last "complete". Complete means every line; when lines are lost with their host it
// says so. "fault" says that the log can't be read, and that to ask again is no use.
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
		return a.endStream(ctx, r, s, err)
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
	window  *logWindow
}

func (f *logFollower) run(ctx context.Context) error {
	for {
		if f.job.AttemptID == "" {
			if f.job.State == nimbus.StateFinished {
				return f.complete(ctx)
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
			return f.complete(ctx)
		}
	}
}

// tail follows the log of one attempt.
func (f *logFollower) tail(ctx context.Context, key nimbus.LogKey) error {
	window, leave := f.api.followed.follow(key)
	defer leave()
	f.window = window
	return logs.Tail(ctx, window, f.api.Bus, key, f.seq+1, f)
}

func (f *logFollower) id() string { return f.attempt + ":" + strconv.FormatInt(f.seq, 10) }

func (f *logFollower) say(events ...event) error {
	f.quiet = time.Now()
	return f.send(events...)
}

// Over implements logs.Follower: of this attempt.
func (f *logFollower) Over(ctx context.Context) (bool, error) {
	if time.Since(f.quiet) > keepAlive {
		f.quiet = time.Now()
		if err := f.comment(); err != nil {
			return false, err
		}
	}
	// Others' look-ups are made by this too, while this reader goes on, or has gone.
	jobs, org, id := f.api.Jobs, f.org, f.job.ID
	j, err := f.api.jobs.do(ctx, org+"/"+id, func(ctx context.Context) (nimbus.Job, error) {
		return jobs.Job(ctx, org, id)
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

// Lines implements logs.Follower.
func (f *logFollower) Lines(page []nimbus.Line) error {
	events, err := f.window.sent(page)
	if err != nil {
		return err
	}
	f.seq = page[len(page)-1].Seq
	return f.say(events...)
}

// Damaged implements logs.Follower.
func (f *logFollower) Damaged(ctx context.Context, d *logs.DamagedError) error {
	f.api.tellDamage(ctx, f.attempt, d)
	f.seq = d.Last
	return f.say(event{name: "damaged", id: f.id(), data: map[string]int64{"first": d.First, "last": d.Last}})
}

// complete is the last event. Its lines are those that there are, whichever the reader
// began with; where they are fewer than were stored, the others are no longer kept.
func (f *logFollower) complete(ctx context.Context) error {
	last := int64(0)
	if f.job.AttemptID != "" {
		var err error
		if last, err = f.api.Logs.Acked(ctx, nimbus.LogKey{OrgID: f.job.OrgID, AttemptID: f.job.AttemptID}); err != nil {
			return err
		}
	}
	whole := f.job.LogComplete && last >= f.job.LogLines || f.job.AttemptID == ""
	return f.say(event{name: "complete", data: map[string]any{"complete": whole, "result": f.job.Result, "lines": last, "stored": f.job.LogLines}})
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
	_, err := f.Over(ctx)
	return err
}
