package guest

import (
	"context"
	"sync"

	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// eventBound is how much memory of output waits for the agent's acknowledgement.
// At the bound the reader of the job's output stops, and the job's writes block.
const eventBound = 4 << 20

// eventCost is what an event takes beside its data: a job that writes byte by
// byte must meet the bound too.
const eventCost = 512

// events is the list of what happened, from the first unacknowledged on.
type events struct {
	mu      sync.Mutex
	list    []*nimbusv1.WatchResponse
	last    int64 // sequence of the newest event ever
	size    int   // what the output in list takes
	ended   bool  // the exit event is in: nothing follows
	changed chan struct{}
	end     chan struct{} // closed then
}

func newEvents() *events { return &events{changed: make(chan struct{}), end: make(chan struct{})} }

// notify wakes all that wait. Called with mu held.
func (e *events) notify() {
	close(e.changed)
	e.changed = make(chan struct{})
}

// output adds a piece of output, waiting while too much is unacknowledged.
// After the exit it is dropped.
func (e *events) output(stream string, data []byte) { e.outputThen(stream, data, func() {}) }

// outputThen is output that somebody counts: before who waits for it hears of it.
func (e *events) outputThen(stream string, data []byte, count func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for e.size+len(data)+eventCost > eventBound && !e.ended {
		changed := e.changed
		e.mu.Unlock()
		<-changed
		e.mu.Lock()
	}
	if e.ended {
		return
	}
	e.size += len(data) + eventCost
	count()
	e.add(&nimbusv1.WatchResponse{Event: &nimbusv1.WatchResponse_Output{Output: &nimbusv1.Output{Stream: stream, Data: data}}})
}

// newest is the number of the newest event, and what is closed once there is another.
func (e *events) newest() (seq int64, changed <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.last, e.changed
}

// streamMask is that of texts which the agent is to hide.
const streamMask = "mask"

// hide has the agent hide a text in all that follows, and waits until it does. It
// returns false where that was not heard before ctx ended.
func (e *events) hide(ctx context.Context, secret []byte) bool {
	e.output(streamMask, secret)
	last, _ := e.newest()
	for {
		e.mu.Lock()
		waits := len(e.list) > 0 && e.list[0].GetSeq() <= last
		changed := e.changed
		e.mu.Unlock()
		if !waits {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// exited adds the last event.
func (e *events) exited(x *nimbusv1.Exited) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.add(&nimbusv1.WatchResponse{Event: &nimbusv1.WatchResponse_Exited{Exited: x}})
	if !e.ended {
		close(e.end)
	}
	e.ended = true
}

func (e *events) add(event *nimbusv1.WatchResponse) {
	if e.ended {
		return
	}
	e.last++
	event.Seq = e.last
	e.list = append(e.list, event)
	e.notify()
}

// over tells that nothing follows.
func (e *events) over() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.ended
}

// acknowledge frees events up to and including seq.
func (e *events) acknowledge(seq int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for n < len(e.list) && e.list[n].GetSeq() <= seq {
		if out := e.list[n].GetOutput(); out != nil {
			e.size -= len(out.GetData()) + eventCost
		}
		e.list[n] = nil
		n++
	}
	e.list = e.list[n:]
	e.notify()
}

// next returns the first event from seq on, waiting for it. Events below the
// first unacknowledged one are gone: the answer then begins later, and the
// agent sees the gap.
func (e *events) next(ctx context.Context, seq int64) (*nimbusv1.WatchResponse, error) {
	for {
		e.mu.Lock()
		for _, event := range e.from(seq) {
			e.mu.Unlock()
			return event, nil
		}
		changed := e.changed
		e.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// from is the tail of the list that begins at seq.
func (e *events) from(seq int64) []*nimbusv1.WatchResponse {
	if len(e.list) == 0 {
		return nil
	}
	skip := max(0, seq-e.list[0].GetSeq())
	if skip >= int64(len(e.list)) {
		return nil
	}
	return e.list[skip:]
}
