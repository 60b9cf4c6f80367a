package arch_test

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// update rewrites the golden list: go test ./test/arch -update.
var update = flag.Bool("update", false, "write the golden files anew")

const agentDepsGolden = "testdata/nimbus-agent.deps"

// agentSizeLimit is the most that the stripped agent may weigh. It is a bound
// on surprises, raised on purpose with the reason in the commit.
const agentSizeLimit = 23 << 20

// TestAgentDependencies shows in review whatever comes into the program that
// runs, often as root, on every host.
func TestAgentDependencies(t *testing.T) {
	t.Parallel()
	var got []string
	for _, p := range goList(t, "-deps", "./cmd/nimbus-agent") {
		if !p.Standard && !strings.HasPrefix(p.ImportPath, "vendor/") {
			got = append(got, p.ImportPath)
		}
	}
	slices.Sort(got)
	list := strings.Join(got, "\n") + "\n"
	if *update {
		if err := os.WriteFile(agentDepsGolden, []byte(list), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(agentDepsGolden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(list, "\n")); diff != "" {
		t.Errorf("the agent's dependencies changed; if that is meant: go test ./test/arch -update\n%s", diff)
	}
	for _, forbidden := range []string{"/internal/server", "/internal/store", "/internal/scheduler", "/internal/forge", "/internal/httpapi", "/internal/identity", "modernc.org/sqlite", "github.com/jackc/pgx/v5"} {
		if i := slices.IndexFunc(got, func(p string) bool { return strings.Contains(p, forbidden) }); i >= 0 {
			t.Errorf("the agent depends on %s", got[i])
		}
	}
}

func TestAgentSize(t *testing.T) {
	t.Parallel()
	bin := filepath.Join(t.TempDir(), "nimbus-agent")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, "./cmd/nimbus-agent")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the agent: %v\n%s", err, out)
	}
	info, err := os.Stat(bin)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("nimbus-agent: %.1f MB", float64(info.Size())/1e6)
	if info.Size() > agentSizeLimit {
		t.Errorf("nimbus-agent weighs %d bytes, more than %d: see what came in with testdata/nimbus-agent.deps", info.Size(), agentSizeLimit)
	}
}
