package forge

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"
)

// movedClock is a clock that only a test moves.
type movedClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *movedClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *movedClock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// told is an answer with what it tells of a bucket.
func told(limit, remaining int, reset time.Time) *http.Response {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{
		"X-Ratelimit-Limit": {strconv.Itoa(limit)}, "X-Ratelimit-Remaining": {strconv.Itoa(remaining)},
		"X-Ratelimit-Reset": {strconv.FormatInt(reset.Unix(), 10)},
	}}
}

// TestReserve: calls that can wait leave what is left to those that can't.
func TestReserve(t *testing.T) {
	t.Parallel()
	clock := &movedClock{now: testNow}
	l := newLimiter(clock, nil)
	c := cost{payer: 1, bucket: bucketCore, points: 1}
	reset := testNow.Add(time.Hour)
	for _, tt := range []struct {
		remaining int
		u         urgency
		ok        bool
	}{
		{41, background, true}, {40, background, false}, {40, ordinary, true},
		{11, ordinary, true}, {10, ordinary, false}, {10, urgent, true}, {1, urgent, true}, {0, urgent, false},
	} {
		l.payer(1).bucket(bucketCore).learn(clock.Now(), told(100, tt.remaining, reset).Header, 1)
		end, err := l.take(t.Context(), c, tt.u)
		var short *shortError
		if tt.ok != (err == nil) || err != nil && !errors.As(err, &short) {
			t.Fatalf("%d left, urgency %d: %v", tt.remaining, tt.u, err)
		}
		if err != nil && (short.wait < time.Hour || short.wait > time.Hour+2*resetMargin) {
			t.Errorf("wait %v", short.wait)
		}
		if err == nil {
			end(told(100, tt.remaining-1, reset), false)
		}
	}
	clock.move(time.Hour + resetMargin)
	if wait := l.wait(c, background); wait != 0 {
		t.Errorf("%v after the reset", wait)
	}
}

// TestUnknownBucket: the first call finds out, the others wait for it.
func TestUnknownBucket(t *testing.T) {
	t.Parallel()
	clock := &movedClock{now: testNow}
	l := newLimiter(clock, nil)
	c := cost{payer: 1, bucket: bucketCore, points: 1}
	end, err := l.take(t.Context(), c, urgent)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := l.take(ctx, c, urgent); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a second one did not wait: %v", err)
	}
	waiting := make(chan error)
	go func() {
		_, err := l.take(t.Context(), c, urgent)
		waiting <- err
	}()
	end(told(100, 0, testNow.Add(time.Minute)), false)
	var short *shortError
	if err := <-waiting; !errors.As(err, &short) {
		t.Errorf("%v although nothing is left", err)
	}
}

// TestPause: a refusal stops the payer for as long as GitHub says, or for
// longer each time; others go on.
func TestPause(t *testing.T) {
	t.Parallel()
	clock := &movedClock{now: testNow}
	l := newLimiter(clock, nil)
	c := cost{payer: 1, bucket: bucketCore, points: 1}
	refuse := func(h http.Header) time.Duration {
		end, err := l.take(t.Context(), c, urgent)
		if err != nil {
			t.Fatal(err)
		}
		end(&http.Response{StatusCode: http.StatusForbidden, Header: h}, true)
		wait := l.wait(c, urgent)
		clock.move(wait)
		return wait
	}
	if wait := refuse(http.Header{"Retry-After": {"17"}}); wait != 17*time.Second {
		t.Errorf("%v, want 17 s", wait)
	}
	for _, want := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute} {
		if wait := refuse(http.Header{}); wait != want {
			t.Errorf("%v, want %v", wait, want)
		}
	}
	if wait := l.wait(cost{payer: 2, bucket: bucketCore, points: 1}, urgent); wait != 0 {
		t.Errorf("another installation waits %v", wait)
	}
}
