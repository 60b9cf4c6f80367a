package redis_test

import (
	"strconv"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/ratelimit"
	"github.com/nimbus-ci/nimbus/internal/ratelimit/redis"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// BenchmarkTake is what a limit costs a call.
func BenchmarkTake(b *testing.B) {
	shared, err := redis.Open(testenv.Redis(b).URL, patience)
	if err != nil {
		b.Fatal(err)
	}
	defer shared.Close()
	for name, l := range map[string]ratelimit.Limiter{"redis": shared, "local": ratelimit.NewLocal(nimbus.SystemClock{}, ratelimit.DefaultKeys)} {
		b.Run(name, func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				if _, err := l.Take(b.Context(), strconv.Itoa(i%1000), ratelimit.Rate{PerSecond: 100, Burst: 100}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
