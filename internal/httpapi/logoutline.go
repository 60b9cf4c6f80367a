package httpapi

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/logs"
)

const (
	// outlineLines is how many lines one request looks at: who wants more asks again.
	outlineLines = 200_000
	outlinePage  = 2000
	// maxOutlines bounds how many are remembered, so that who asks again, or
	// while a job runs, has the rest looked at and not all.
	maxOutlines = 64
)

// sectionJSON is a section as readers get it.
type sectionJSON struct {
	Kind  logs.SectionKind `json:"kind"`
	ID    int32            `json:"id"`
	First int64            `json:"first"`
	Last  int64            `json:"last"`
	Title string           `json:"title"`
}

// outlineJSON is what is known of a log's sections, up to a line.
type outlineJSON struct {
	AttemptID string        `json:"attempt_id"`
	Lines     int64         `json:"lines"`
	Sections  []sectionJSON `json:"sections"`
}

// outlineLog answers which steps and groups the log of a job's last attempt has. Of
// a log that is long it looks at a part and says up to where.
func (a *api) outlineLog(w http.ResponseWriter, r *http.Request) error {
	j, err := a.Jobs.Job(r.Context(), callerOf(r.Context()).org, r.PathValue("id"))
	if err != nil {
		return err
	}
	answer := outlineJSON{AttemptID: j.AttemptID, Sections: []sectionJSON{}}
	if j.AttemptID != "" {
		o, err := a.outlines.of(r.Context(), a.Logs, nimbus.LogKey{OrgID: j.OrgID, AttemptID: j.AttemptID})
		if err != nil {
			return err
		}
		answer.Lines = o.Lines
		for _, s := range o.Sections {
			answer.Sections = append(answer.Sections, sectionJSON{Kind: s.Kind, ID: s.Number, First: s.First, Last: s.Last, Title: s.Title})
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // the reader is gone: nobody to tell
	return nil
}

// outlines are those of the logs that were asked for last.
type outlines struct {
	mu    sync.Mutex
	known map[nimbus.LogKey]*outline
	asked int64
}

// outline is that of one log, looked at by one at a time.
type outline struct {
	mu    sync.Mutex
	asked int64 // when it was used last, in askings
	logs.Outline
}

// of returns what is known of a log once more of it has been looked at.
func (o *outlines) of(ctx context.Context, store logs.Store, key nimbus.LogKey) (logs.Outline, error) {
	mine := o.take(key)
	mine.mu.Lock()
	defer mine.mu.Unlock()
	for end := mine.Lines + outlineLines; mine.Lines < end; {
		page, damaged, err := logs.ReadOn(ctx, store, key, mine.Lines+1, outlinePage)
		if err != nil {
			return logs.Outline{}, err
		}
		if damaged != nil {
			mine.Skip(damaged.Last)
			continue
		}
		if len(page) == 0 {
			break
		}
		mine.Add(page)
	}
	known := mine.Outline
	known.Sections = append([]logs.Section(nil), mine.Sections...)
	return known, nil
}

// take finds the outline of a log, or makes room for it.
func (o *outlines) take(key nimbus.LogKey) *outline {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.known == nil {
		o.known = map[nimbus.LogKey]*outline{}
	}
	mine, ok := o.known[key]
	if !ok {
		mine = &outline{}
		o.known[key] = mine
	}
	o.asked++
	mine.asked = o.asked
	if len(o.known) > maxOutlines {
		oldest := key
		for k, other := range o.known {
			if other.asked < o.known[oldest].asked {
				oldest = k
			}
		}
		delete(o.known, oldest)
	}
	return mine
}
