package simhost

import (
	"slices"
	"sync"
	"time"
)

// Span is a time, by the monotonic clock, in which a process could run.
type Span struct{ From, To time.Time }

// End is how an execution ended, as its machine saw it.
type End string

// The ends.
const (
	EndNone      End = ""          // it has not ended, or was never started
	EndDone      End = "done"      // the process came to its own end
	EndCancelled End = "cancelled" // the control plane wanted it to stop
	EndFenced    End = "fenced"    // the lease was somebody else's
	EndExpired   End = "expired"   // its shim was not fed in time
	EndCrashed   End = "crashed"   // its machine lost power
	EndIdle      End = "idle"      // GitHub took its runner away, which never had a job
	EndDropped   End = "dropped"   // GitHub wanted its job to end, or had ended it
)

// Execution is one attempt as its machine saw it. What the control plane knows
// of it is not in here, but for its answer.
type Execution struct {
	JobID, AttemptID, HostID string
	Fence                    int64
	// GitHubJob is what GitHub gave the execution's runner: it need not be the
	// job that the runner was made for. Without one nothing of a job ran.
	GitHubJob int64
	Work      time.Duration // that a native job takes
	Live      []Span        // none while the machine was paused
	End       End
	// Acknowledged says that the control plane took the report of its end.
	Acknowledged bool
}

// Records is what all machines of a test saw. Its methods may be called
// concurrently.
type Records struct {
	mu  sync.Mutex
	all []*Execution
}

// Executions returns a copy of what was recorded. An execution that goes on
// lives until now.
func (r *Records) Executions() []Execution {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Execution, len(r.all))
	for i, e := range r.all {
		out[i] = *e
		out[i].Live = slices.Clone(e.Live)
		for j := range out[i].Live {
			if out[i].Live[j].To.IsZero() {
				out[i].Live[j].To = now
			}
		}
	}
	return out
}

func (r *Records) add(e *Execution) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, e)
}

// lives begins a span; rests ends it.
func (r *Records) lives(e *Execution) {
	r.edit(func() { e.Live = append(e.Live, Span{From: time.Now()}) })
}

func (r *Records) rests(e *Execution) {
	r.edit(func() { e.Live[len(e.Live)-1].To = time.Now() })
}

func (r *Records) edit(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}
