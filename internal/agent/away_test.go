package agent

import (
	"context"
	"errors"
	"strings"
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
				began, tries := time.Now(), 0
				var said []string
				_, err := untilThere(t.Context(), func(words string) { said = append(said, words) }, func() (executor.Sandbox, error) {
					if tries++; tries <= c.fails {
						return nil, c.err
					}
					return nil, nil
				})
				if took := time.Since(began); !errors.Is(err, c.want) || took < c.from || took > c.to {
					t.Errorf("%v after %v, %d tries", err, took, tries)
				}
				if c.fails > 0 && errors.Is(c.err, away) && (len(said) == 0 || !strings.Contains(said[0], away.Error())) {
					t.Errorf("the job's log does not tell why it waits: %q", said)
				}
				for i, words := range said {
					if i > 0 && strings.Contains(words, away.Error()) || i > int(awayPatience/awayWords) {
						t.Errorf("the job's log has it again and again: %q", said)
					}
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
