package cli_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/cli"
)

// TestOperationsFlagsThatCantBeRead keep a server from starting, with a word on
// what they should look like.
func TestOperationsFlagsThatCantBeRead(t *testing.T) {
	t.Parallel()
	for flag, hint := range map[string]string{
		"--limit-api=fast": "is no rate", "--limit-host=0/1": "is no rate", "--admin-from=10.0.0.1/8": "10.0.0.0/8 is the range around it",
		"--trusted-proxy=proxy": "a range looks like", "--otlp-endpoint=collector:4318": "an address looks like",
	} {
		var out, err bytes.Buffer
		args := []string{"up", "--data", t.TempDir(), "--listen", "127.0.0.1:0", "--no-agent", flag}
		if code := cli.Main(t.Context(), "test", args, cli.Streams{Out: &out, Err: &err}); code == 0 || !strings.Contains(err.String(), hint) {
			t.Errorf("%s: exit code %d, %s", flag, code, err.String())
		}
	}
}
