package demand

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Times of listening to scale sets.
const (
	setsEvery  = 5 * time.Second // how often it is looked which there are
	firstPause = 5 * time.Second
	mostPause  = 2 * time.Minute
	// closeWithin is how long GitHub may take to hear that nobody listens.
	closeWithin = 5 * time.Second
	// lookAgain is when a run is looked into once more that a message told of:
	// GitHub's lists lag behind its messages.
	lookAgain = 20 * time.Second
	// tellEvery is how often it is written down that a queue was heard.
	tellEvery = time.Minute
)

// Queues is what listening needs of GitHub. A message comes again until it is
// acknowledged. Codes: conflict while somebody else listens, not_found for a
// session that is over.
type Queues interface {
	OpenSession(ctx context.Context, set nimbus.ScaleSet, owner string) (nimbus.ScaleSetSession, error)
	CloseSession(ctx context.Context, set nimbus.ScaleSet, session string) error
	// NextMessage waits for a message; nil when none came. It may change s.
	NextMessage(ctx context.Context, set nimbus.ScaleSet, s *nimbus.ScaleSetSession, last int64, capacity int) (*nimbus.ScaleSetMessage, error)
	Acknowledge(ctx context.Context, set nimbus.ScaleSet, s *nimbus.ScaleSetSession, id int64) error
	Acquire(ctx context.Context, set nimbus.ScaleSet, s *nimbus.ScaleSetSession, requests []int64) error
	RunJobs(ctx context.Context, repo nimbus.ForgeRepo, runID int64, page int) (jobs []nimbus.ForgeEvent, more bool, err error)
}

// ScaleSets keeps which scale sets there are.
type ScaleSets interface {
	ScaleSets(ctx context.Context) ([]nimbus.ScaleSet, error)
	// SaveScaleSetSession remembers what session is open, "" for none.
	SaveScaleSetSession(ctx context.Context, id, session string) error
	// SaveScaleSetState writes down how it goes; heard says that GitHub has just
	// answered.
	SaveScaleSetState(ctx context.Context, id string, heard bool, s nimbus.ScaleSetState) error
}

// Listener listens to the queues of scale sets, for hosts that GitHub can't
// reach. A message tells in which run something happened, in words that nothing
// else of GitHub's has; what happened is read from the run itself and taken as
// if a webhook had told it. So there is one truth whatever the messages say,
// how often, and in which order.
type Listener struct {
	GitHub Queues
	Store  ScaleSets
	Jobs   Observer
	Owner  string // as GitHub shows who listens
	Log    *slog.Logger
	// LookAgain is when a run is looked into once more; default 20 s.
	LookAgain time.Duration
	// Pause is how long it takes until a queue that could not be heard is tried
	// again; default 5 s. It gets longer each time.
	Pause time.Duration
}

// Run listens until ctx ends, to one queue in one place: GitHub allows no more.
func (l *Listener) Run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	heard := map[string]context.CancelFunc{}
	every(ctx, l.Log, "looking for scale sets", setsEvery, func(ctx context.Context) error {
		sets, err := l.Store.ScaleSets(ctx)
		if err != nil {
			return err
		}
		there := map[string]bool{}
		for _, set := range sets {
			there[set.ID] = true
			if heard[set.ID] == nil {
				var listening context.Context
				listening, heard[set.ID] = context.WithCancel(ctx)
				all.Go(func() { l.listen(listening, set) })
			}
		}
		maps.DeleteFunc(heard, func(id string, stop context.CancelFunc) bool {
			if !there[id] {
				stop()
			}
			return !there[id]
		})
		return nil
	})
	for _, stop := range heard {
		stop()
	}
}

// listen keeps a session open.
func (l *Listener) listen(ctx context.Context, set nimbus.ScaleSet) {
	first := cmp.Or(l.Pause, firstPause)
	pause, again := first, map[runKey]time.Time{}
	for ctx.Err() == nil {
		s := &listening{Listener: l, set: set, again: again}
		err := s.run(ctx)
		set.State = s.set.State
		if ctx.Err() != nil {
			return
		}
		if s.heard {
			pause = first
		}
		wait := max(pause, nimbus.ErrorRetryAfter(err))
		pause = min(2*pause, mostPause)
		l.Log.WarnContext(ctx, "a scale set is not heard, it is tried again", "scale_set", set.Name, "in", wait, "error", err)
		set.State.Trouble = err.Error()
		if err := l.Store.SaveScaleSetState(ctx, set.ID, false, set.State); err != nil {
			l.Log.WarnContext(ctx, "it could not be written down", "scale_set", set.Name, "error", err)
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
