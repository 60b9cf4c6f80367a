package cli_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/cli"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

func TestLogsMigrate(t *testing.T) {
	t.Parallel()
	engine := testenv.ClickHouse(t)
	run := func(wantCode int, args ...string) (stdout, stderr string) {
		t.Helper()
		var out, err bytes.Buffer
		code := cli.Main(t.Context(), "test", append([]string{"logs", "migrate"}, args...), cli.Streams{Out: &out, Err: &err})
		if code != wantCode {
			t.Fatalf("%q: exit code %d, %s", args, code, err.String())
		}
		return out.String(), err.String()
	}
	at := "--clickhouse=" + engine.URL + "/logs"
	if out, _ := run(0, at, "--dry-run"); !strings.Contains(out, "CREATE TABLE IF NOT EXISTS `logs`.log_lines") {
		t.Errorf("a dry run prints %s", out)
	}
	if out, _ := run(0, at, "--dry-run", "--cluster", "main"); !strings.Contains(out, "ReplicatedReplacingMergeTree") {
		t.Errorf("of a cluster it prints %s", out)
	}
	if _, said := run(0, at); !strings.Contains(said, "from version 0 to ") {
		t.Errorf("it says %s", said)
	}
	if _, said := run(0, at); !strings.Contains(said, "up to date") {
		t.Errorf("again it says %s", said)
	}
	if out, _ := run(0, at, "--json"); !strings.Contains(out, `"statements":[]`) {
		t.Errorf("as JSON it says %s", out)
	}
	if out, _ := run(0, at, "--reader", "analyst=org_00000000000000000000000000"); !strings.Contains(out, "CREATE ROW POLICY") {
		t.Errorf("for a reader it prints %s", out)
	}
	for _, args := range [][]string{{}, {"--clickhouse=http://user:secret@localhost/logs"}, {at, "--reader", "analyst"}, {at, "--reader", "analyst=default"}, {"--clickhouse-user=x"}} {
		if _, said := run(2, args...); strings.Contains(said, "secret") {
			t.Errorf("%q: it tells the password", args)
		}
	}
	engine.Kill()
	if _, said := run(1, at); !strings.Contains(said, "does not answer") {
		t.Errorf("of one that is away it says %s", said)
	}
}
