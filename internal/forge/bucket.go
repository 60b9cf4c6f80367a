package forge

import (
	"net/http"
	"strconv"
	"time"
)

// bucket is one of GitHub's primary limits: so many calls until a reset. What
// is left is GitHub's to say, with each answer.
type bucket struct {
	known     bool // an answer told; before, one call at a time finds out
	limited   bool // GitHub Enterprise Server may have none
	limit     int
	remaining int
	window    int64     // X-RateLimit-Reset: which window it is
	resetAt   time.Time // by our clock
	inFlight  int
	// A replica's part of what was left when it heard of the window, of so many
	// parts: what the others spend is not known until the next answer.
	left, parts int
}

// resetMargin is added to a reset: it and the Date beside it have whole seconds.
const resetMargin = 2 * time.Second

// share divides what is left among replicas. Who was there before gives way to
// who is new in proportion, so that all parts together stay within it. A part
// grows with the next window only.
func (b *bucket) share(parts int) {
	switch {
	case !b.known || !b.limited || parts <= b.parts:
	case b.parts == 1:
		b.left, b.parts = (b.remaining-b.inFlight)/parts, parts
	default:
		b.left, b.parts = b.left*b.parts/parts, parts
	}
}

// wait is how long until a call may be made that leaves reserve percent of the
// bucket to others. unknown says that the call has to wait for the answer of
// one that is under way.
func (b *bucket) wait(now time.Time, reserve int) (wait time.Duration, unknown bool) {
	if b.known && b.limited && !now.Before(b.resetAt) {
		// A new window, of which the first answer tells more.
		b.known, b.remaining = false, b.limit
	}
	switch {
	case !b.known:
		return 0, b.inFlight > 0
	case !b.limited:
		return 0, false
	case b.remaining-b.inFlight > b.limit*reserve/100 && (b.parts <= 1 || b.left > b.limit/b.parts*reserve/100):
		return 0, false
	}
	return b.resetAt.Sub(now), false
}

// learn takes what an answer tells about the bucket, of which this is one of so
// many replicas' part.
func (b *bucket) learn(now time.Time, h http.Header, parts int) {
	limit, err1 := strconv.Atoi(h.Get("X-Ratelimit-Limit"))
	remaining, err2 := strconv.Atoi(h.Get("X-Ratelimit-Remaining"))
	reset, err3 := strconv.ParseInt(h.Get("X-Ratelimit-Reset"), 10, 64)
	if err1 != nil || err2 != nil || err3 != nil {
		b.known = true // and unlimited, unless something else was told before
		return
	}
	if b.limited && reset < b.window {
		return // it was overtaken by one of the next window
	}
	if b.limited && reset == b.window && b.known {
		b.remaining = min(b.remaining, remaining) // answers overtake each other
		return
	}
	*b = bucket{
		known: true, limited: true, limit: limit, remaining: remaining, window: reset,
		resetAt: now.Add(untilReset(reset, h, now)), inFlight: b.inFlight,
		left: remaining/parts - b.inFlight, parts: parts,
	}
}

// untilReset is measured against GitHub's own clock, so that ours may be off.
func untilReset(reset int64, h http.Header, now time.Time) time.Duration {
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	return min(max(time.Unix(reset, 0).Sub(now), 0), maxRetryAfter) + resetMargin
}
