package cli

import (
	"strings"
	"testing"
)

// TestCacheWarm is the command as it is typed, at a server: its numbers pass, and
// those that are none are refused before anything is asked.
func TestCacheWarm(t *testing.T) {
	t.Parallel()
	c := startConnected(t)
	for _, args := range [][]string{nil, {"--gib", "0.5", "-n", "10"}, {"--gib", "0.001"}} {
		code, out, errs := c.now(t, append([]string{"cache", "warm", "--json"}, args...)...)
		if code != ExitFailure || !strings.Contains(out+errs, "no host may get jobs now") { // the server's word
			t.Errorf("%q: exit code %d: %s%s", args, code, out, errs)
		}
	}
	code, out, errs := c.now(t, "cache", "warm", "--gib", "0")
	if code != ExitUsage || !strings.Contains(errs, "--gib is 0; allowed is 0.001 to 1048576") {
		t.Errorf("exit code %d: %s%s", code, out, errs)
	}
}
