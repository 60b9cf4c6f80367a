package e2e

import (
	"encoding/json"
	"testing"
)

// TestDoctor looks at this machine: whatever it lacks, each finding has a
// status, and what fails says what would mend it.
func TestDoctor(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	stdout, stderr, code := m.nimbus(t, t.TempDir(), "doctor", "--json")
	var answer struct {
		Checks []struct {
			Name   string `json:"name"`
			Status string `json:"status"`
			Detail string `json:"detail"`
			Hint   string `json:"hint"`
		} `json:"checks"`
	}
	if err := json.Unmarshal([]byte(stdout), &answer); err != nil || len(answer.Checks) < 5 {
		t.Fatalf("exit code %d, %v\n%s%s", code, err, stdout, stderr)
	}
	failed := false
	for _, c := range answer.Checks {
		switch c.Status {
		case "ok", "warn":
		case "fail":
			failed = true
			if c.Hint == "" {
				t.Errorf("%s fails without a hint: %s", c.Name, c.Detail)
			}
		default:
			t.Errorf("%s: status %q", c.Name, c.Status)
		}
	}
	if (code == 1) != failed {
		t.Errorf("exit code %d, failed: %v", code, failed)
	}
}
