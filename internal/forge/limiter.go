package forge

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	nimbus "github.com/nimbus-ci/nimbus"
)

// urgency is who goes first when a budget gets short: it says what share of
// each limit a call leaves to more urgent ones.
type urgency int

// The urgencies.
const (
	urgent     urgency = iota // a job waits for it: registering a runner
	ordinary                  // bringing the books in step with GitHub
	background                // looking for what may have been missed
)

// reserve is the percentage of a limit that calls of an urgency don't touch.
func (u urgency) reserve() int { return [...]int{0, 10, 40}[u] }

// Limits of GitHub.com. The primary ones are not here: GitHub tells them with
// each answer.
const (
	maxConcurrent     = 60 // of 100
	pointsPerMinute   = 900
	contentPerMinute  = 80
	contentPerHour    = 500
	runnersBurst      = 180 // registrations in a minute
	runnersSustained  = 830 // in five, 166 in each
	runnersSustainFor = 5*time.Minute + windowMargin

	// A call counts at GitHub when it arrives, which is later than here.
	windowMargin = 5 * time.Second
	minute, hour = time.Minute + windowMargin, time.Hour + windowMargin

	secondaryPause = time.Minute // without a Retry-After, doubled each time
)

// Primary buckets by GitHub's names.
const (
	bucketCore    = "core"
	bucketRunners = "actions_runner_registration"
)

// cost is what a call spends.
type cost struct {
	payer   int64  // the installation; 0 is the App itself
	bucket  string // primary
	points  int    // per minute: 1 to read, 5 to write
	content bool   // it writes what people see
	runner  bool   // it registers a runner
}

// limiter keeps all calls of an App within GitHub's limits, so that none is
// made that would be refused: it makes them wait for one that is under way, or
// tells for how long there is no point in asking. Each installation pays for
// itself; concurrency and the registration of runners are the App's.
//
// Several replicas divide what GitHub allows: each keeps to its part, and need
// not hear of what the others do.
type limiter struct {
	clock    nimbus.Clock
	replicas Replicas

	mu       sync.Mutex
	changed  chan struct{} // closed and made anew when a call ends
	inFlight int
	payers   map[int64]*payer
	runners  []*window
}

// payer is an installation, or the App itself.
type payer struct {
	buckets map[string]*bucket
	points  window
	content []*window
	pause   time.Time // GitHub said to come back then
	strikes int       // refusals in a row without a Retry-After
	used    time.Time
}

// Replicas tells how many there are that share the Apps, this one included: all
// that made calls within a time, or may. 0 says that this one may not yet.
type Replicas func(within time.Duration) int

// notAmong is for how long a replica waits that others don't know of.
const notAmong = 5 * time.Second

func newLimiter(clock nimbus.Clock, replicas Replicas) *limiter {
	if replicas == nil {
		replicas = func(time.Duration) int { return 1 }
	}
	return &limiter{
		clock: clock, replicas: replicas, changed: make(chan struct{}), payers: map[int64]*payer{},
		runners: []*window{{span: minute, most: runnersBurst}, {span: runnersSustainFor, most: runnersSustained}},
	}
}

// shortError says that a call was not made, because it would have been refused.
type shortError struct {
	what string
	wait time.Duration
}

// Error implements error.
func (e *shortError) Error() string {
	return fmt.Sprintf("GitHub's %s is used up for %v", e.what, e.wait.Round(time.Second))
}

// take waits until a call may be made, which the returned function ends. It
// fails with a *shortError when there is no point in waiting.
func (l *limiter) take(ctx context.Context, c cost, u urgency) (end func(*http.Response, bool), err error) {
	for {
		l.mu.Lock()
		p, now := l.payer(c.payer), l.clock.Now()
		what, wait, blocked := l.obstacle(p, c, u, now)
		if wait == 0 && !blocked {
			l.spend(p, c, now)
			l.mu.Unlock()
			return func(r *http.Response, refused bool) { l.end(p, c, r, refused) }, nil
		}
		changed := l.changed
		l.mu.Unlock()
		if wait > 0 {
			return nil, &shortError{what, wait}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// wait is how long until a call would be made.
func (l *limiter) wait(c cost, u urgency) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, wait, _ := l.obstacle(l.payer(c.payer), c, u, l.clock.Now())
	return wait
}

// obstacle is what keeps a call from being made: a limit that is used up for a
// time, or calls under way that it has to wait for. l.mu is held.
func (l *limiter) obstacle(p *payer, c cost, u urgency, now time.Time) (what string, wait time.Duration, blocked bool) {
	share := 100 - u.reserve()
	longest := func(name string, d time.Duration) {
		if d > wait {
			what, wait = name, d
		}
	}
	longest("patience", p.pause.Sub(now))
	if l.replicas(0) == 0 {
		longest("part of what replicas share", notAmong)
		return what, wait, false
	}
	fits := func(w *window, cost int) time.Duration { return w.wait(now, cost, share, l.replicas(w.span)) }
	b := p.bucket(c.bucket)
	b.share(l.replicas(hour))
	short, unknown := b.wait(now, u.reserve())
	longest("limit of "+c.bucket+" calls", short)
	longest("limit of points per minute", fits(&p.points, c.points))
	if c.content {
		for _, w := range p.content {
			longest("limit of content", fits(w, 1))
		}
	}
	if c.runner {
		for _, w := range l.runners {
			longest("limit of runner registrations", fits(w, 1))
		}
	}
	return what, wait, unknown || l.inFlight >= max(maxConcurrent*share/100/l.replicas(minute), 1)
}

func (l *limiter) spend(p *payer, c cost, now time.Time) {
	p.used = now
	b := p.bucket(c.bucket)
	b.inFlight++
	b.left--
	p.points.spend(now, c.points)
	if c.content {
		for _, w := range p.content {
			w.spend(now, 1)
		}
	}
	if c.runner {
		for _, w := range l.runners {
			w.spend(now, 1)
		}
	}
	l.inFlight++
}

// end takes what an answer tells; r is nil where none came. refused says that
// it was refused for a limit.
func (l *limiter) end(p *payer, c cost, r *http.Response, refused bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock.Now()
	l.inFlight--
	b := p.bucket(c.bucket)
	b.inFlight--
	close(l.changed)
	l.changed = make(chan struct{})
	if r == nil {
		b.remaining-- // it may have been counted
		return
	}
	if told := r.Header.Get("X-Ratelimit-Resource"); told != "" && len(told) <= maxNameBytes && told != c.bucket {
		p.bucket(told).learn(now, r.Header, max(l.replicas(hour), 1))
		b.known = true // whatever it is, it is not what pays for this call
	} else {
		b.learn(now, r.Header, max(l.replicas(hour), 1))
	}
	if r.StatusCode == http.StatusNotModified {
		b.left++ // which cost nothing
	}
	switch {
	case !refused:
		p.strikes = 0
	case headerWait(r) > 0:
		p.pause = later(p.pause, now.Add(headerWait(r)))
	case r.Header.Get("X-Ratelimit-Remaining") != "0":
		pause := min(secondaryPause<<min(p.strikes, 6), maxRetryAfter)
		p.strikes++
		p.pause = later(p.pause, now.Add(pause))
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// payer finds or makes one; beyond maxInstallations the one that was idle
// longest is forgotten, and learns anew what it has. l.mu is held.
func (l *limiter) payer(id int64) *payer {
	if p := l.payers[id]; p != nil {
		return p
	}
	if len(l.payers) >= maxInstallations {
		oldest := id
		for other, p := range l.payers {
			if oldest == id || p.used.Before(l.payers[oldest].used) {
				oldest = other
			}
		}
		delete(l.payers, oldest)
	}
	p := &payer{
		buckets: map[string]*bucket{},
		points:  window{span: minute, most: pointsPerMinute},
		content: []*window{{span: minute, most: contentPerMinute}, {span: hour, most: contentPerHour}},
	}
	l.payers[id] = p
	return p
}

// maxBuckets bounds the names that an answer may make us remember.
const maxBuckets = 32

func (p *payer) bucket(name string) *bucket {
	b := p.buckets[name]
	if b == nil {
		b = &bucket{}
		if len(p.buckets) < maxBuckets {
			p.buckets[name] = b
		}
	}
	return b
}
