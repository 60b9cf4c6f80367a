package httpapi

import (
	"testing"
	"testing/fstest"
)

// TestAccessIsDecidedForEveryCall reads the API description: a new RPC fails
// here until the table says who may call it, and so does a new route.
func TestAccessIsDecidedForEveryCall(t *testing.T) {
	t.Parallel()
	described := map[string]bool{}
	for _, procedure := range Procedures() {
		described[procedure] = true
		if access[procedure].place == actsNowhere {
			t.Errorf("nobody decided who may call %s", procedure)
		}
	}
	for procedure := range access {
		if !described[procedure] {
			t.Errorf("%s is in the table but not in the API", procedure)
		}
	}
	handled := (&api{Config: Config{Pages: fstest.MapFS{}}}).handlers()
	for pattern := range handled {
		if routes[pattern].place == actsNowhere {
			t.Errorf("nobody decided who may ask for %s", pattern)
		}
	}
	for pattern := range routes {
		if handled[pattern] == nil {
			t.Errorf("%s is in the table but not answered", pattern)
		}
	}
}
