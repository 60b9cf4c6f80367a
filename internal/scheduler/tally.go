package scheduler

import (
	"cmp"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Observer hears what the scheduler did, once it is committed. Its methods
// return at once and may be called concurrently.
type Observer interface {
	// Committed hears of one transaction. It keeps nothing of t.
	Committed(t *Tally)
	// Fenced hears of writes that were refused because the lease was not their
	// host's.
	Fenced(n int)
	// Delivered hears of a webhook.
	Delivered(o nimbus.DeliveryOutcome)
}

// Tally is what one transaction did that is worth counting.
type Tally struct {
	Operations int             // that were gathered for it; 0 where it was for one alone
	Offered    []time.Duration // per offer, since the job was queued
	Accepted   []time.Duration // per first accept, since the offer
	Requeued   []nimbus.ReasonCode
	Started    []Started
	Expired    int // leases
	Finished   []Finished
	Ended      []Ended
	// Reruns were asked of GitHub, RerunsDropped were not, of jobs that were lost.
	Reruns, RerunsDropped int
}

// Causes of being queued again that no job has as its reason.
const (
	causeNotAccepted nimbus.ReasonCode = "not_accepted"
	causeOther       nimbus.ReasonCode = "other"
)

// Started is a sandbox that is ready for an attempt.
type Started struct {
	Class nimbus.Class
	nimbus.Start
}

// Ended is an attempt whose host told its end.
type Ended struct {
	Class nimbus.Class
	Run   nimbus.Run // when it reached what, and what it used; a job's own fields are left out
}

// Finished is a job that ended.
type Finished struct {
	OrgID, JobID string
	Source       nimbus.Source
	Result       nimbus.Result
}

// moved counts a move of a job, just made.
func (t *Tally) moved(j *JobRecord, from nimbus.State, m Move, now time.Time) {
	switch m.To {
	case nimbus.StateOffered:
		if from == nimbus.StateQueued {
			t.Offered = append(t.Offered, now.Sub(j.Timeline.QueuedAt))
		}
	case nimbus.StateFinished:
		t.Finished = append(t.Finished, Finished{j.OrgID, j.ID, j.Source, m.Result})
	case nimbus.StateQueued:
		if from != nimbus.StatePending {
			t.Requeued = append(t.Requeued, cmp.Or(m.Cause, causeOther))
		}
	case nimbus.StatePending, nimbus.StateAccepted, nimbus.StateRunning, nimbus.StateUnschedulable:
	}
}

// observe tells of a transaction that is committed.
func (s *Service) observe(t *Tally, ops []*operation) {
	if s.cfg.Observer == nil {
		return
	}
	if ops[0].done != nil { // the gatherer's
		t.Operations = len(ops)
	}
	s.cfg.Observer.Committed(t)
	s.observeFenced(ops)
}

// observeFenced tells of operations that were refused.
func (s *Service) observeFenced(ops []*operation) {
	n := 0
	for _, op := range ops {
		if nimbus.ErrorCode(op.err) == nimbus.CodeFenced {
			n++
		}
	}
	if n > 0 && s.cfg.Observer != nil {
		s.cfg.Observer.Fenced(n)
	}
}

// observeVerdicts tells of leases that were not renewed.
func (s *Service) observeVerdicts(beats []*beat) {
	n := 0
	for _, b := range beats {
		for _, status := range b.statuses {
			if status.Verdict == nimbus.VerdictFenced {
				n++
			}
		}
	}
	if n > 0 && s.cfg.Observer != nil {
		s.cfg.Observer.Fenced(n)
	}
}
