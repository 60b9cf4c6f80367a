// Package retry repeats calls of a blob store that does not answer now.
//
// When to try again is cenkalti/backoff's business, which our OTLP exporter
// brings along: exponential, with jitter, so that many who wait do not come back
// at once.
package retry

import (
	"context"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob"
)

// Policy is how often and how soon. The zero value is a good default.
type Policy struct {
	Tries uint          // of a call, the first one included. Default: 4
	First time.Duration // about how long the first pause is; the next ones double. Default: 100 ms
	Most  time.Duration // the longest pause, also of those that the store asks for. Default: 2 s
}

// Defaults of a Policy.
const (
	defaultTries = 4
	defaultFirst = 100 * time.Millisecond
	defaultMost  = 2 * time.Second
)

// New returns a store that repeats calls of s that fail with code unavailable,
// while their context lives. All calls may be repeated but a Put whose source
// can't seek: that is gone.
func New(s blob.Store, p Policy) blob.Wrapper {
	if p.Tries == 0 {
		p.Tries = defaultTries
	}
	if p.First <= 0 {
		p.First = defaultFirst
	}
	if p.Most <= 0 {
		p.Most = defaultMost
	}
	return blob.Around(s, blob.Layer{Do: p.do})
}

func (p Policy) do(ctx context.Context, c blob.Call, run func(context.Context) error) error {
	if c.Once {
		return run(ctx)
	}
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.MaxInterval, pauses.Multiplier = p.First, p.Most, 2
	var last error
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		last = run(ctx)
		switch after := nimbus.ErrorRetryAfter(last); {
		case last == nil:
			return struct{}{}, nil
		case nimbus.ErrorCode(last) != nimbus.CodeUnavailable, after > p.Most:
			return struct{}{}, backoff.Permanent(last)
		case after > 0:
			return struct{}{}, &backoff.RetryAfterError{Duration: after}
		default:
			return struct{}{}, last
		}
	}, backoff.WithBackOff(pauses), backoff.WithMaxTries(p.Tries), backoff.WithMaxElapsedTime(0))
	if err != nil && ctx.Err() != nil && nimbus.ErrorCode(last) == nimbus.CodeUnavailable {
		return fmt.Errorf("wait to call the object store again: %w", context.Cause(ctx))
	}
	return last
}
