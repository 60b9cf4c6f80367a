package agent

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
)

// TestUntilThere has a daemon be away while a sandbox is made: for a while, which
// costs the job no attempt; for good; and something else be wrong, which no
// waiting mends.
func TestUntilThere(t *testing.T) {
	away := nimbus.Errorf(nimbus.CodeUnavailable, "the docker daemon can't be reached")
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		fails    int
		err      error
		want     error
		from, to time.Duration
	}{
		"there":                  {0, nil, nil, 0, 0},
		"away for a while":       {4, away, nil, 5 * time.Second, 20 * time.Second},
		"away for good":          {1000, away, away, awayPatience, awayPatience + 2*backoffMost},
		"broken, which stays so": {1000, broken, broken, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began, tries, said := time.Now(), 0, 0
				_, err := untilThere(t.Context(), func(string) { said++ }, func() (executor.Sandbox, error) {
					if tries++; tries <= c.fails {
						return nil, c.err
					}
					return nil, nil
				})
				if took := time.Since(began); !errors.Is(err, c.want) || took < c.from || took > c.to {
					t.Errorf("%v after %v, %d tries", err, took, tries)
				}
				if c.fails > 0 && errors.Is(c.err, away) && said == 0 {
					t.Error("the job's log does not tell why it waits")
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(3*time.Second, cancel)
		began := time.Now()
		if _, err := untilThere(ctx, func(string) {}, func() (executor.Sandbox, error) { return nil, away }); !errors.Is(err, away) || time.Since(began) > 4*time.Second {
			t.Errorf("cancelled: %v after %v", err, time.Since(began))
		}
	})
}
