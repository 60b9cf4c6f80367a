package cli_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cli"
)

// TestHelp is the same however it is asked for.
func TestHelp(t *testing.T) {
	t.Parallel()
	say := func(args ...string) string {
		t.Helper()
		var out, err bytes.Buffer
		if code := cli.Main(t.Context(), "test", args, cli.Streams{Out: &out, Err: &err}); code != cli.ExitOK || err.Len() > 0 {
			t.Errorf("nimbus %s: exit code %d, %s", strings.Join(args, " "), code, err.String())
		}
		return out.String()
	}
	for _, command := range [][]string{nil, {"hosts"}, {"hosts", "drain"}, {"images", "build"}} {
		want := say(append(command, "--help")...)
		if want == "" || say(append([]string{"help"}, command...)...) != want {
			t.Errorf("nimbus help %s says something else than --help", strings.Join(command, " "))
		}
	}
	if say() != say("help") {
		t.Error("nimbus alone says something else than nimbus help")
	}
}

// TestScopesAreTold: who makes a token is told all scopes that there are.
func TestScopesAreTold(t *testing.T) {
	t.Parallel()
	var out, err bytes.Buffer
	if code := cli.Main(t.Context(), "test", []string{"tokens", "create", "--help"}, cli.Streams{Out: &out, Err: &err}); code != cli.ExitOK {
		t.Fatalf("exit code %d, %s", code, err.String())
	}
	for _, scope := range nimbus.Scopes() {
		if !strings.Contains(out.String(), string(scope)) {
			t.Errorf("the help does not name %s", scope)
		}
	}
}
