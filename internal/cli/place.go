package cli

import (
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cli/terminal"
)

// placeView is where a waiting job stands.
type placeView struct {
	Ahead   int        `json:"ahead"`
	AtLeast bool       `json:"at_least,omitempty"`
	StartAt *time.Time `json:"estimated_start_at,omitempty"`
	Unknown string     `json:"unknown,omitempty"` // why no start can be told
}

func viewPlace(p *nimbus.QueuePlace) *placeView {
	if p == nil {
		return nil
	}
	return &placeView{Ahead: p.Ahead, AtLeast: p.AtLeast, StartAt: timeView(p.StartAt), Unknown: p.Unknown}
}

// placeWords tell where a waiting job stands, in a sentence without its subject.
func placeWords(p nimbus.QueuePlace, now time.Time) string {
	where := terminal.Count(p.Ahead, "job") + " before it"
	switch {
	case p.AtLeast:
		where = "at least " + where
	case p.Ahead == 0:
		where = "next"
	}
	switch in := p.StartAt.Sub(now); {
	case p.StartAt.IsZero():
		return where + "; when it starts can't be told: " + terminal.OneLine(p.Unknown)
	case in < 5*time.Second:
		return where + ", starts about now"
	default:
		return where + ", starts in about " + roughly(in)
	}
}

// Times of what is told to somebody who waits.
const (
	waitQuiet = 3 * time.Second  // most jobs start before anything is worth telling
	waitTell  = 30 * time.Second // between two lines, so that a long wait doesn't fill the screen
)

// waitLine tells somebody who waits for a job where it stands: not at once, and
// again when something changed and a while has passed.
type waitLine struct {
	app   *app
	began time.Time
	told  time.Time
	words string
}

func (w *waitLine) tell(p *nimbus.QueuePlace, now time.Time) {
	if w.began.IsZero() {
		w.began = now
	}
	if p == nil || now.Sub(w.began) < waitQuiet || now.Sub(w.told) < waitTell {
		return
	}
	if words := placeWords(*p, now); words != w.words {
		w.words, w.told = words, now
		w.app.info("%s", w.app.errStyle.Quiet("waiting: "+words))
	}
}
