package cache_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/cache"
)

// cases are what a job relies on, whatever its client is.
func cases() []string {
	return []string{"save", "restore", "miss", "prefix", "conflict", "quota", "large", "concurrent"}
}

// cell is what a client does in a case: a test, or why there is none.
type cell struct {
	test func(*testing.T)
	why  string
}

// row is a client with its cells.
type row struct {
	client string
	// target is of make, for a client that takes minutes to get; "" is `make test`.
	target string
	cells  map[string]cell
}

// Why a cell has no test.
const (
	exactKeys  = "its keys are hashes of what goes in, and are asked for whole"
	exactPaths = "a path is asked for whole: there are no restore keys"
)

// matrix is every client in every case, by the clients that were built. A hole in it
// is a failure of TestMatrixHasNoHoles.
func matrix(built map[string]client) []row {
	version2, version1, webdav := sccaches()
	return []row{
		{"@actions/cache, version 2", "", ofClient(built["js-v2"])},
		{"@actions/cache, version 1", "", ofClient(built["js-v1"])},
		{"go-actions-cache, version 2", "", ofClient(built["go-v2"])},
		{"go-actions-cache, version 1", "", ofClient(built["go-v1"])},
		{"BuildKit, version 2", "test-buildkit", ofBuildKit(false)},
		{"BuildKit, version 1", "test-buildkit", ofBuildKit(true)},
		{"ccache", "", ofCompiler(ccache("subdirs"))},
		{"sccache, version 2", "test-sccache", ofCompiler(version2)},
		{"sccache, version 1", "test-sccache", ofCompiler(version1)},
		{"sccache by URL", "test-sccache", ofCompiler(webdav)},
		{"turbo", "", ofTurbo()},
		{"any HTTP client", "", ofURLs(byURL{layout: "deps/%s", once: true}, conflict, concurrent)},
		{"Bazel's protocol", "", ofURLs(byURL{layout: "ac/%s", hashed: true}, replaced, lastOfMany)},
		{"Nx's protocol", "", ofURLs(byURL{layout: "v1/cache/%s", hashed: true}, conflict, concurrent)},
	}
}

// ofClient are the cells of a client that speaks GitHub's protocol for its user.
func ofClient(c client) map[string]cell {
	cells := map[string]cell{}
	for what, test := range map[string]func(*testing.T, client){
		"save": kept, "restore": sizes, "miss": missing, "prefix": prefixes, "conflict": conflict, "quota": quota, "large": inBlocks, "concurrent": concurrent,
	} {
		cells[what] = cell{test: func(t *testing.T) { test(t, c) }}
	}
	return cells
}

// limitsOf are what a world has in a case whose client sets none itself.
func limitsOf(what string) (limits cache.Limits) {
	if what == "quota" {
		limits.Repo = MiB
	}
	return limits
}

// TestMatrix runs the clients that `make test` has.
func TestMatrix(t *testing.T) { runRows(t, matrix(clients(t)), "") }

// runRows runs the rows of a target of make.
func runRows(t *testing.T, rows []row, target string) {
	t.Helper()
	for _, r := range rows {
		if r.target != target {
			continue
		}
		t.Run(strings.ReplaceAll(r.client, "/", "-"), func(t *testing.T) { // so that -run finds it
			t.Parallel()
			for _, what := range cases() {
				if test := r.cells[what].test; test != nil {
					t.Run(what, test)
				}
			}
		})
	}
}

// holes are the cells that have neither a test nor a reason, have both, or are of
// no case.
func holes(rows []row) (found []string) {
	seen := map[string]bool{}
	for _, r := range rows {
		if seen[r.client] {
			found = append(found, r.client+": twice")
		}
		seen[r.client] = true
		for _, what := range cases() {
			switch c := r.cells[what]; {
			case c.test == nil && c.why == "":
				found = append(found, r.client+": "+what+" has neither a test nor a reason")
			case c.test != nil && c.why != "":
				found = append(found, r.client+": "+what+" has a test and a reason for none")
			}
		}
		for what := range r.cells {
			if !slices.Contains(cases(), what) {
				found = append(found, r.client+": "+what+" is no case")
			}
		}
	}
	return found
}

func TestMatrixHasNoHoles(t *testing.T) {
	for _, hole := range holes(matrix(nil)) {
		t.Error(hole)
	}
	test := func(*testing.T) {}
	whole := func() map[string]cell {
		cells := map[string]cell{}
		for _, what := range cases() {
			cells[what] = cell{test: test}
		}
		return cells
	}
	none, both, more := whole(), whole(), whole()
	delete(none, "quota")
	both["miss"] = cell{test, "a reason"}
	more["savee"] = cell{test: test}
	for want, rows := range map[string][]row{
		"":         {{client: "x", cells: whole()}, {client: "y", cells: whole()}},
		"x: twice": {{client: "x", cells: whole()}, {client: "x", cells: whole()}},
		"x: quota has neither a test nor a reason": {{client: "x", cells: none}},
		"x: miss has a test and a reason for none": {{client: "x", cells: both}},
		"x: savee is no case":                      {{client: "x", cells: more}},
	} {
		if got := strings.Join(holes(rows), "\n"); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestMatrixIsInTheGuide: docs/testing.md says what is tried with what.
func TestMatrixIsInTheGuide(t *testing.T) {
	guide, err := os.ReadFile("../../docs/testing.md")
	if err != nil {
		t.Fatal(err)
	}
	if want := guideTable(matrix(nil)); !strings.Contains(string(guide), want) {
		t.Errorf("docs/testing.md lacks this table:\n%s", want)
	}
}

// guideTable is the matrix as the guide has it: a tick, or the number of a reason.
func guideTable(rows []row) string {
	var b strings.Builder
	var reasons []string
	fmt.Fprintf(&b, "| client | %s | by |\n|---%s|---|\n", strings.Join(cases(), " | "), strings.Repeat("|---", len(cases())))
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s |", r.client)
		for _, what := range cases() {
			mark := "✓"
			if why := r.cells[what].why; why != "" {
				if !slices.Contains(reasons, why) {
					reasons = append(reasons, why)
				}
				mark = fmt.Sprintf("– (%d)", slices.Index(reasons, why)+1)
			}
			fmt.Fprintf(&b, " %s |", mark)
		}
		target := "test"
		if r.target != "" {
			target = r.target
		}
		fmt.Fprintf(&b, " `make %s` |\n", target)
	}
	b.WriteString("\n")
	for n, why := range reasons {
		fmt.Fprintf(&b, "(%d) %s.\n", n+1, why)
	}
	return b.String()
}
