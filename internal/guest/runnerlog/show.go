package runnerlog

import (
	"slices"
	"time"
)

// stepLine shows a line of a step's page.
func (t *Tail) stepLine(r *record, at time.Time, n line) {
	if !r.begun {
		r.begun, r.step = true, t.worker.assign(at, n.text)
	}
	if !t.ledger.step(n) {
		return
	}
	if r.step != nil && r.step != t.current {
		t.announce(t.worker.steps[:slices.Index(t.worker.steps, r.step)])
		t.head(r.step) // again, if another one runs beside it
	}
	t.text(n)
}

func (t *Tail) jobLine(_ time.Time, n line) {
	for _, missed := range t.ledger.job(n) {
		t.text(missed)
	}
}

// announce shows the names of steps that the runner has begun.
func (t *Tail) announce(steps []*step) {
	for _, s := range steps {
		if !s.shown && s.runs {
			t.head(s)
		}
	}
}

func (t *Tail) head(s *step) {
	s.shown, t.current = true, s
	t.show([]byte(stepDirective + s.name + "\n"))
}

func (t *Tail) text(n line) {
	if n.more {
		t.show([]byte(n.text))
		return
	}
	t.show([]byte(n.text + "\n"))
}

// finish shows what had no end yet, and what the job's page alone has.
func (t *Tail) finish() {
	if t.worker.job == "" {
		t.showLargest()
		return
	}
	job := t.record(t.worker.job)
	for _, r := range t.records {
		if r != job {
			r.finish(func(at time.Time, n line) { t.stepLine(r, at, n) })
		}
	}
	job.finish(t.jobLine)
	for _, n := range t.ledger.rest() {
		t.text(n)
	}
}

// showLargest is for a runner whose log did not say which job it had: the
// largest record is the job's, since it has what all others have.
func (t *Tail) showLargest() {
	var largest *record
	for _, r := range t.records {
		if largest == nil || r.size() > largest.size() {
			largest = r
		}
	}
	if largest == nil {
		return
	}
	show := func(_ time.Time, n line) { t.text(n) }
	largest.read(t.buf, show)
	largest.finish(show)
}
