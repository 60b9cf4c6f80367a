package cli

import (
	"strings"
	"testing"
)

// TestPlainHTTPIsForThisMachine: nothing is sent over it to another one.
func TestPlainHTTPIsForThisMachine(t *testing.T) {
	t.Setenv("NIMBUS_TOKEN", "a token")
	code, _, stderr := nimbusIn(t, t.TempDir(), "hosts", "--server", "http://192.0.2.1")
	if code != ExitFailure || !strings.Contains(stderr, "plain http to 192.0.2.1 would show tokens") || !strings.Contains(stderr, "hint: use https") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}
