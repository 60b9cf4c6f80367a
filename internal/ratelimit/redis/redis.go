// Package redis keeps the buckets of rate limits in Redis, where all replicas
// take from them. Time is that of Redis, so that clocks need not agree.
package redis

import (
	"context"
	_ "embed"
	"fmt"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/ratelimit"
)

// DefaultTimeout is how long a call waits for Redis, which needs a tenth of a
// millisecond.
const DefaultTimeout = 100 * time.Millisecond

// prefix is of all keys.
const prefix = "nimbus:limit:"

// advance is ratelimit.Advance, in microseconds. Redis forgets a bucket once it
// is full again.
//
//go:embed advance.lua
var advance string

// Limiter is a ratelimit.Limiter in Redis.
type Limiter struct {
	client  *goredis.Client
	script  *goredis.Script
	timeout time.Duration
}

// Open returns a limiter in the Redis of a redis://, rediss:// or unix:// URL;
// timeout bounds each call. It does not wait for Redis to answer. Codes: invalid.
func Open(url string, timeout time.Duration) (*Limiter, error) {
	options, err := goredis.ParseURL(url)
	if err != nil {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "the address of Redis is not valid"). // it may hold a password
													WithHint("an address looks like redis://127.0.0.1:6379/0")
	}
	options.MaxRetries, options.DialerRetries = -1, 1
	options.ContextTimeoutEnabled = true
	options.DialTimeout, options.ReadTimeout, options.WriteTimeout, options.PoolTimeout = timeout, timeout, timeout, timeout
	return &Limiter{client: goredis.NewClient(options), script: goredis.NewScript(advance), timeout: timeout}, nil
}

// Close ends the connections.
func (l *Limiter) Close() error { return l.client.Close() }

// Take implements ratelimit.Limiter.
func (l *Limiter) Take(ctx context.Context, key string, r ratelimit.Rate) (time.Duration, error) {
	if r.Unlimited() {
		return 0, nil
	}
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	us, err := l.script.Run(ctx, l.client, []string{prefix + key}, r.Interval().Microseconds(), r.Depth().Microseconds()).Int64()
	if err != nil {
		return 0, fmt.Errorf("redis: %w", err)
	}
	return time.Duration(us) * time.Microsecond, nil
}
