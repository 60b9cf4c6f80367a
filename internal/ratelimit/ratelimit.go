// Package ratelimit bounds how often who may call. The rule is GCRA: of each
// key one number is kept, the time at which all that was taken is paid off, so
// that a bucket costs no more than that and nothing has to be refilled.
//
// There are two limiters behind one suite (ratelimittest): one in the memory of
// a process, and one in Redis (redis/) that replicas share. A Fallback goes on
// with the first while the second is gone.
package ratelimit

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Limiter keeps the buckets. All methods may be called concurrently.
type Limiter interface {
	// Take takes one from the bucket of key, which fills at rate r. wait is 0
	// when there was one, and otherwise how long until there is; then nothing
	// was taken.
	Take(ctx context.Context, key string, r Rate) (wait time.Duration, err error)
}

// Rate is how often something may be done: so many times at once, and from then
// on so many times a second. The zero Rate is none: it stands for a default.
type Rate struct {
	PerSecond float64
	Burst     int
}

// Bounds of a rate: those at which its arithmetic in microseconds is exact.
const (
	MinPerSecond = 1e-3
	MaxPerSecond = 1e6
	MaxBurst     = 1e6
)

// Unlimited is the rate that refuses nothing.
func Unlimited() Rate { return Rate{PerSecond: math.Inf(1)} }

// Unlimited tells whether the rate refuses nothing.
func (r Rate) Unlimited() bool { return math.IsInf(r.PerSecond, 1) }

// Times returns a rate that is n times as high.
func (r Rate) Times(n int) Rate {
	if r.Unlimited() {
		return r
	}
	return Rate{PerSecond: min(r.PerSecond*float64(n), MaxPerSecond), Burst: min(r.Burst*n, MaxBurst)}
}

// Interval is the time in which the bucket gets one more, and Depth that in
// which an empty one gets full; both at least a microsecond.
func (r Rate) Interval() time.Duration {
	us := math.Round(1e6 / min(max(r.PerSecond, MinPerSecond), MaxPerSecond))
	return time.Duration(us) * time.Microsecond
}

// Depth is the time in which an empty bucket gets full.
func (r Rate) Depth() time.Duration { return r.Interval() * time.Duration(max(r.Burst, 1)) }

// String is the rate as ParseRate reads it.
func (r Rate) String() string {
	if r.Unlimited() {
		return "off"
	}
	return strconv.FormatFloat(r.PerSecond, 'f', -1, 64) + "/" + strconv.Itoa(r.Burst)
}

// MarshalText implements encoding.TextMarshaler.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler, for flags.
func (r *Rate) UnmarshalText(text []byte) (err error) {
	*r, err = ParseRate(string(text))
	return err
}

// ParseRate reads "PER_SECOND/BURST" or "off". Codes: invalid.
func ParseRate(s string) (Rate, error) {
	if s == "off" {
		return Unlimited(), nil
	}
	perSecond, burst, _ := strings.Cut(s, "/")
	rate, err1 := strconv.ParseFloat(perSecond, 64)
	most, err2 := strconv.Atoi(burst)
	if err1 != nil || err2 != nil || !(rate >= MinPerSecond && rate <= MaxPerSecond) || most < 1 || most > MaxBurst {
		return Rate{}, nimbus.Errorf(nimbus.CodeInvalid, "%q is no rate", s).
			WithHint("a rate is PER_SECOND/BURST, like 100/2000, or off; at most %.0f/%.0f", MaxPerSecond, MaxBurst)
	}
	return Rate{PerSecond: rate, Burst: most}, nil
}

// Advance is the rule itself: paid is when all that was taken before is paid
// off, in any unit that has a zero. It returns that after one more was taken
// now, or how long to wait for one. A paid that no such bucket could have, as
// after a step of the clock, counts as an empty bucket's.
func Advance(paid, now, interval, depth time.Duration) (next, wait time.Duration) {
	paid = min(max(paid, now), now+depth)
	next = paid + interval
	if over := next - now - depth; over > 0 {
		return paid, over
	}
	return next, 0
}

// Refusal is the answer to who takes more than there is.
func Refusal(what string, r Rate, wait time.Duration) error {
	err := nimbus.Errorf(nimbus.CodeRateLimited, "too many %s: %s a second are allowed, %d at once", what, strconv.FormatFloat(r.PerSecond, 'f', -1, 64), r.Burst).
		WithHint("try again in %s", roundUp(wait))
	err.RetryAfter = wait
	return err
}

func roundUp(wait time.Duration) string {
	return fmt.Sprintf("%d s", int64((wait+time.Second-1)/time.Second))
}
