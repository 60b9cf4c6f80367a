package httpapi

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nimbus-ci/nimbus"
)

// maxFollowed is how many jobs one stream follows.
const maxFollowed = 50

// streamLogs follows the logs of many jobs (?jobs=, their ids with commas between)
// over one connection, of which a browser has six: the events of streamLog, whose data
// is {"job_id": …, "event": …}, and "end" once all are complete. ?tail= has each begin
// with its last lines. The id of an event is where all of them are: "<attempt>:<seq>"
// of each job, in the order in which they were asked for.
func (a *api) streamLogs(w http.ResponseWriter, r *http.Request) error {
	ctx, org := r.Context(), callerOf(r.Context()).org
	ids := strings.Split(r.URL.Query().Get("jobs"), ",")
	if len(ids) > maxFollowed {
		return nimbus.Errorf(nimbus.CodeInvalid, "a stream follows at most %d jobs", maxFollowed)
	}
	m := &logMux{places: make([]string, len(ids))}
	places := strings.Split(r.Header.Get("Last-Event-ID"), ",")
	followers := make([]*logFollower, len(ids))
	for i, id := range ids {
		j, err := a.Jobs.Job(ctx, org, id)
		if err != nil {
			return err
		}
		f := &logFollower{api: a, org: org, job: j, quiet: time.Now()}
		if len(places) == len(ids) {
			f.attempt, f.seq = eventPlace(places[i])
		}
		if f.attempt == "" {
			f.attempt = j.AttemptID
			if f.seq, err = a.begin(r, j); err != nil {
				return err
			}
		}
		f.send = func(events ...event) error { return m.send(i, id, events) }
		f.comment = m.comment
		m.places[i], followers[i] = f.id(), f
	}
	stream, err := newEventStream(w)
	if err != nil {
		return nil //nolint:nilerr // the reader is gone: nobody to tell
	}
	m.stream = stream
	if err := m.run(ctx, followers); err != nil {
		return a.endStream(ctx, r, stream, err)
	}
	return nil
}

// logMux writes the events of many logs to one reader. Who is slow to read keeps nobody
// waiting but these.
type logMux struct {
	mu     sync.Mutex
	stream *eventStream
	places []string // where each log is
}

// muxed is the data of an event.
type muxed struct {
	JobID string `json:"job_id"`
	Event any    `json:"event"`
}

func (m *logMux) run(ctx context.Context, followers []*logFollower) error {
	work, ctx := errgroup.WithContext(ctx)
	for _, f := range followers {
		work.Go(func() error { return f.run(ctx) })
	}
	if err := work.Wait(); err != nil {
		return err
	}
	return m.stream.send(event{name: "end", id: m.id(), data: struct{}{}})
}

func (m *logMux) id() string { return strings.Join(m.places, ",") }

// send writes events of one log together. Only the last has an id: who comes back
// after a part of them has them all again, from where it was.
func (m *logMux) send(i int, job string, events []event) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(events) == 0 {
		return errors.New("no event to send")
	}
	own := make([]event, len(events)) // those are also others'
	for k, e := range events {
		if e.id != "" {
			m.places[i] = e.id
		}
		own[k] = event{name: e.name, data: muxed{JobID: job, Event: e.data}}
	}
	own[len(own)-1].id = m.id()
	return m.stream.send(own...)
}

func (m *logMux) comment() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stream.comment()
}
