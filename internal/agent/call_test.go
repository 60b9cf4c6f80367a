package agent

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
)

// TestCallWaitsAsAsked: a control plane that says when to come back is not asked
// before, and within a minute all the same.
func TestCallWaitsAsAsked(t *testing.T) {
	t.Parallel()
	for asked, want := range map[time.Duration]time.Duration{20 * time.Second: 20 * time.Second, time.Hour: time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			begun, calls := time.Now(), 0
			_, err := call(t.Context(), func(context.Context, *connect.Request[struct{}]) (*connect.Response[struct{}], error) {
				if calls++; calls == 1 {
					return nil, &nimbus.Error{Code: nimbus.CodeUnavailable, Message: "come back", RetryAfter: asked}
				}
				return connect.NewResponse(&struct{}{}), nil
			}, &struct{}{})
			if err != nil || calls != 2 || time.Since(begun) != want {
				t.Errorf("%d calls, %v after %v, want after %v", calls, err, time.Since(begun), want)
			}
		})
	}
}
