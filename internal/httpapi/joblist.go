package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/bus"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

const (
	// gather is how long changes are gathered: a job passes three states in as
	// many milliseconds.
	gather = 50 * time.Millisecond
	// resync is how often the newest jobs are looked at anew: announcements
	// may be lost.
	resync = 10 * time.Second
	// listed is how many jobs that covers.
	listed = 50
)

// streamJobs sends the newest jobs and then every change: event "job".
func (a *api) streamJobs(w http.ResponseWriter, r *http.Request) error {
	ctx, org := r.Context(), callerOf(r.Context()).org
	sub := a.Bus.Subscribe(bus.JobsTopic(org))
	defer sub.Close()
	s, err := newEventStream(w)
	if err != nil {
		return nil // the reader is gone
	}
	watch := jobWatch{api: a, org: org, stream: s, sent: map[string]string{}}
	ticker := time.NewTicker(resync)
	defer ticker.Stop()
	for {
		if err := watch.all(ctx); err != nil {
			return a.endStream(ctx, r, s, err)
		}
		for again := true; again; {
			select {
			case id := <-sub.C:
				if err := watch.changed(ctx, gatherIDs(ctx, string(id), sub.C)); err != nil {
					return a.endStream(ctx, r, s, err)
				}
			case <-ticker.C:
				again = false
				if err := s.comment(); err != nil {
					return nil
				}
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// endStream ends a stream that has begun: an error can't be an answer any more. The
// reader comes back. Where that is no use it is told so, by the event "fault".
func (a *api) endStream(ctx context.Context, r *http.Request, s *eventStream, err error) error {
	if ctx.Err() != nil || errors.Is(err, errReaderGone) {
		return nil //nolint:nilerr // nobody to tell
	}
	err = a.judge(ctx, r.URL.Path, err)
	if code := nimbus.ErrorCode(err); code != nimbus.CodeUnavailable && code != nimbus.CodeRateLimited {
		_ = s.send(event{name: "fault", data: map[string]string{"code": string(code), "message": err.Error()}}) // the reader is gone: nobody to tell
	}
	return nil
}

// gatherIDs takes the ids that come within a moment, each once.
func gatherIDs(ctx context.Context, first string, more <-chan []byte) map[string]bool {
	ids := map[string]bool{first: true}
	timer := time.NewTimer(gather)
	defer timer.Stop()
	for {
		select {
		case id := <-more:
			ids[string(id)] = true
		case <-timer.C:
			return ids
		case <-ctx.Done():
			return ids
		}
	}
}

// jobWatch is what one reader has been sent.
type jobWatch struct {
	api    *api
	org    string
	stream *eventStream
	sent   map[string]string // job id -> the message
}

// all sends those of the newest jobs that the reader doesn't have as they are.
func (w *jobWatch) all(ctx context.Context) error {
	page, err := w.api.Jobs.Jobs(ctx, w.org, scheduler.JobFilter{PageSize: listed})
	if err != nil {
		return err
	}
	known := w.sent
	w.sent = make(map[string]string, len(page.Jobs))
	for i := len(page.Jobs) - 1; i >= 0; i-- {
		if err := w.send(page.Jobs[i], known); err != nil {
			return err
		}
	}
	return nil
}

func (w *jobWatch) changed(ctx context.Context, ids map[string]bool) error {
	for id := range ids {
		j, err := w.api.Jobs.Job(ctx, w.org, id)
		if nimbus.ErrorCode(err) == nimbus.CodeNotFound {
			continue
		}
		if err != nil {
			return err
		}
		if err := w.send(j, w.sent); err != nil {
			return err
		}
	}
	return nil
}

func (w *jobWatch) send(j nimbus.Job, known map[string]string) error {
	raw, err := protojson.Marshal(wire.Job(j))
	if err != nil {
		return fmt.Errorf("encode job: %w", err)
	}
	message := compact(raw)
	before := known[j.ID] // known may be sent itself
	w.sent[j.ID] = message
	if before == message {
		return nil
	}
	return w.stream.send(event{name: "job", data: json.RawMessage(message)})
}

// compact takes out the spaces that protojson puts in at random.
func compact(raw []byte) string {
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return string(raw)
	}
	out, err := json.Marshal(v)
	if err != nil {
		return string(raw)
	}
	return string(out)
}
