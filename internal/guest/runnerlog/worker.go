package runnerlog

import (
	"regexp"
	"strings"
	"time"
)

// Names of the steps that the runner puts around a job's own; its log names
// only those.
const (
	setUpStep    = "Set up job"
	completeStep = "Complete job"
)

// traced is a line of the worker's own log: [2006-01-02 15:04:05Z INFO Source] text.
var traced = regexp.MustCompile(`^\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ) INFO (JobRunner|StepsRunner)\] (.*)$`)

// step is a step that the runner has come to.
type step struct {
	name     string
	at       time.Time // to the second
	runs     bool      // it was begun, not only come to
	shown    bool      // its name is in the output
	assigned bool      // a record is its
	skipped  bool
}

// worker is what the worker's log tells: which job it is, and which steps it
// has come to, in order.
type worker struct {
	job   string // id of the job's record
	steps []*step
}

// maxSteps bounds what is kept of a log that goes mad.
const maxSteps = 10_000

// take reads a line of the log.
func (w *worker) take(text string) {
	m := traced.FindStringSubmatch(strings.TrimPrefix(text, byteOrderMark))
	if m == nil {
		return
	}
	at, err := time.Parse("2006-01-02 15:04:05Z", m[1])
	if err != nil {
		return
	}
	source, said := m[2], m[3]
	switch {
	case source == "JobRunner" && w.job == "":
		if id, ok := strings.CutPrefix(said, "Job ID "); ok {
			w.job = strings.ToLower(strings.TrimSpace(id))
			w.add(setUpStep, at)
			w.last().runs = true
		}
	case source == "JobRunner" && said == "Finalize job.":
		w.add(completeStep, at)
		w.last().runs = true
	case source != "StepsRunner":
	case said == "Skipping step due to condition evaluation.":
		w.last().skipped = true
	case said == "Starting the step.":
		w.last().runs = true
	default:
		if name, ok := strings.CutPrefix(said, "Processing step: DisplayName='"); ok {
			w.add(strings.TrimSuffix(name, "'"), at)
		}
	}
}

func (w *worker) add(name string, at time.Time) {
	if len(w.steps) < maxSteps {
		w.steps = append(w.steps, &step{name: name, at: at})
	}
}

// last is the step that the runner has come to last.
func (w *worker) last() *step {
	if len(w.steps) == 0 {
		return &step{}
	}
	return w.steps[len(w.steps)-1]
}

// evaluating is what the runner writes first into a step's page while it
// debugs, into that of a skipped one too.
const evaluating = "##[debug]Evaluating condition for step: '"

// assign says whose a record is that was first written to at the given time:
// the first step without a record, but for those that wrote nothing, which
// shows when the step after them began in an earlier second already. The log
// does not say it outright.
func (w *worker) assign(at time.Time, first string) *step {
	name, debugs := strings.CutPrefix(first, evaluating)
	name = strings.TrimSuffix(name, "'")
	var open []*step
	for _, s := range w.steps {
		switch {
		case s.assigned:
		case debugs && s.name == name:
			s.assigned = true
			return s
		case !s.skipped:
			open = append(open, s)
		}
	}
	for len(open) > 1 && !at.IsZero() && open[1].at.Before(at.Truncate(time.Second)) {
		open = open[1:]
	}
	if len(open) == 0 {
		return nil
	}
	open[0].assigned = true
	return open[0]
}
