// Package arch holds the rules of the house that a compiler can't: which room
// may know which, what every package must have, and how lean the host agent is.
package arch_test

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/nimbus-ci/nimbus"

// pkg is what `go list` tells of a package.
type pkg struct {
	ImportPath string   `json:"ImportPath"`
	Dir        string   `json:"Dir"`
	GoFiles    []string `json:"GoFiles"`
	Tests      []string `json:"TestGoFiles"`
	MoreTests  []string `json:"XTestGoFiles"`
	Imports    []string `json:"Imports"`
	Standard   bool     `json:"Standard"`
}

// room is a package's path inside the module; "" is the vocabulary.
func (p pkg) room() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
}

// goList runs go list in the module's root and decodes its packages.
func goList(t *testing.T, args ...string) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-json=ImportPath,Dir,GoFiles,TestGoFiles,XTestGoFiles,Imports,Standard"}, args...)...)
	cmd.Dir = "../.."
	cmd.Stderr = os.Stderr
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

// inRoom tells whether path is room or below it.
func inRoom(path, room string) bool { return path == room || strings.HasPrefix(path, room+"/") }

// mayKnow says, for each room, which others of ours it may import. A room that
// isn't listed may know no other: add it with the reason in the commit.
// Rooms below a listed one share its rule unless they are listed themselves.
var mayKnow = map[string][]string{
	"":                   {},
	"api/gen":            {},
	"client":             {"", "api/gen", "internal/wire"},
	"examples":           {},
	"images":             {},
	"web":                {},
	"internal/agent":     {"", "api/gen", "internal/bearer", "internal/datadir", "internal/executor", "internal/guestlink", "internal/logs", "internal/telemetry/otlp", "internal/wholefile", "internal/wire"},
	"internal/audit":     {""},
	"internal/backup":    {"", "internal/store"},
	"internal/bearer":    {},
	"internal/blob":      {""},
	"internal/bus":       {},
	"internal/cache":     {"", "internal/blob", "internal/transfer"},
	"internal/bus/redis": {"", "internal/bus"},
	"internal/cli":       {"", "api/gen", "client", "examples", "images", "internal"},
	"internal/demo":      {"", "api/gen", "client", "examples", "internal"},
	"internal/datadir":   {""},
	"internal/demand":    {""},
	"internal/doctor":    {"", "internal/host", "internal/programs"},
	"internal/door":      {},
	"internal/executor":  {"", "api/gen", "images", "internal/guestlink", "internal/shim", "internal/wholefile"},
	"internal/flagrange": {""},
	"internal/forge":     {""},
	"internal/guest":     {"", "api/gen", "internal/door", "internal/guestlink"},
	"internal/guestlink": {"", "api/gen"},
	"internal/httpapi":   {"", "api/gen", "internal/bearer", "internal/bus", "internal/identity", "internal/logs", "internal/ratelimit", "internal/report", "internal/scheduler", "internal/shells", "internal/traces", "internal/wire"},
	"internal/identity":  {"", "internal/bearer"},
	"internal/leader":    {""},
	"internal/lifecycle": {},
	"internal/logs":      {"", "internal/bus", "internal/wholefile"},
	"internal/migrate":   {""},
	"internal/programs":  {"", "internal/wholefile"},
	"internal/ratelimit": {""},
	"internal/registry":  {"", "internal/blob", "internal/registry/upstream"},
	"internal/report":    {""},
	"internal/scheduler": {"", "internal/bus", "internal/lifecycle"},
	"internal/server":    {"", "api/gen", "internal", "web"},
	"internal/shells":    {"", "internal/bus", "internal/logs"},
	"internal/shim":      {"", "internal/door", "internal/wholefile"},
	"internal/store":     {"", "internal/audit", "internal/bearer", "internal/cache", "internal/demand", "internal/identity", "internal/leader", "internal/logs", "internal/registry", "internal/scheduler", "internal/shells", "internal/traces", "internal/transfer"},
	"internal/telemetry": {"", "internal/scheduler", "internal/traces"},
	"internal/traces":    {"", "internal/telemetry/otlp"},
	"internal/systemd":   {"", "internal/wholefile"},
	"internal/testenv":   {},
	"internal/tlsfile":   {""},
	"internal/transfer":  {""},
	"internal/wholefile": {},
	"internal/wire":      {"", "api/gen"},
	"cmd/nimbus":         {"internal/cli"},
	"cmd/nimbus-agent":   {"", "internal/flagrange", "internal/host", "internal/programs", "internal/systemd", "internal/tlsfile"},
	"cmd/nimbus-guest":   {"internal/guest"},
	"cmd/nimbus-nvml":    {"internal/executor/gpu/driver", "internal/executor/gpu/inventory"},
	"cmd/nimbus-runner":  {"images", "internal/forge/githubtest"},
	"cmd/nimbus-shim":    {"internal/executor/microvm/vmm/firecracker/pages", "internal/shim"},
	"internal/host":      {"", "images", "internal/agent", "internal/cache/intercept", "internal/cache/near", "internal/executor", "internal/programs"},
	"test":               {"", "api/gen", "client", "examples", "internal", "web"},
	"bench":              {"", "api/gen", "client", "examples", "internal", "test/simhost"},

	// Protocols know the room that they speak for.
	"internal/cache/actions": {"", "api/gen", "internal/cache", "internal/transfer"},
	"internal/cache/keyed":   {"", "internal/cache", "internal/transfer"},
	"internal/cache/near":    {"", "internal/transfer", "internal/wholefile"},
	// It tells the addresses of the internet from others as the fence does.
	"internal/cache/intercept": {"", "internal/transfer", "internal/executor/inside", "internal/wholefile"},

	// Its messages are read by hosts and by the control plane.
	"internal/telemetry/otlp": {""},

	"internal/registry/distribution": {"", "internal/transfer", "internal/registry"},
	// It tells the addresses of the internet from others as the fence does.
	"internal/registry/upstream": {"", "internal/executor/inside"},
}

// rule finds the entry of mayKnow that governs a room.
func rule(room string) (allowed []string, governed string, ok bool) {
	for r := room; ; {
		if allowed, ok := mayKnow[r]; ok && (r != "" || room == "") {
			return allowed, r, true
		}
		i := strings.LastIndexByte(r, '/')
		if i < 0 {
			return nil, "", false
		}
		r = r[:i]
	}
}

func TestDependencyRule(t *testing.T) {
	t.Parallel()
	for _, p := range goList(t, "./...") {
		allowed, governed, ok := rule(p.room())
		if !ok {
			t.Errorf("package %s is in no room of the house: add its room to mayKnow and docs/ARCHITECTURE.md", p.ImportPath)
			continue
		}
		for _, imported := range p.Imports {
			other, ours := strings.CutPrefix(imported, module)
			other = strings.TrimPrefix(other, "/")
			forTests := strings.HasSuffix(p.room(), "test") && other == "internal/testenv"
			if !ours || forTests || governed != "" && inRoom(other, governed) {
				continue
			}
			if !slices.ContainsFunc(allowed, func(room string) bool { return other == room || room != "" && inRoom(other, room) }) {
				t.Errorf("%s imports %s: %q may know only %q", p.ImportPath, imported, governed, allowed)
			}
		}
	}
}

// TestVocabularyIsStdlibOnly keeps the root package importable from anywhere.
func TestVocabularyIsStdlibOnly(t *testing.T) {
	t.Parallel()
	for _, p := range goList(t, "-deps", ".") {
		if !p.Standard && p.ImportPath != module {
			t.Errorf("the vocabulary depends on %s", p.ImportPath)
		}
	}
}

// TestDoublesStayOutOfProduction: only the demo and tests may know the double
// of GitHub, and nobody but tests the conformance suites.
func TestDoublesStayOutOfProduction(t *testing.T) {
	t.Parallel()
	for _, p := range goList(t, "./...") {
		for _, imported := range p.Imports {
			room := strings.TrimPrefix(imported, module+"/")
			suite := strings.HasSuffix(room, "test") && strings.HasPrefix(imported, module) && !inRoom(room, "internal/forge/githubtest")
			if suite && !strings.HasSuffix(p.room(), "test") && !inRoom(p.room(), "test") {
				t.Errorf("%s imports the test package %s", p.ImportPath, imported)
			}
			double := inRoom(room, "internal/forge/githubtest") && strings.HasPrefix(imported, module)
			if double && !inRoom(p.room(), "internal/forge") && !inRoom(p.room(), "internal/demo") && !inRoom(p.room(), "test") && p.room() != "cmd/nimbus-runner" {
				t.Errorf("%s imports the double of GitHub", p.ImportPath)
			}
		}
	}
}

func TestEveryPackageIsDocumentedOnce(t *testing.T) {
	t.Parallel()
	for _, p := range goList(t, "./...") {
		if inRoom(p.room(), "api/gen") || inRoom(p.room(), "internal/store/gen") {
			continue
		}
		var documented []string
		for _, name := range p.GoFiles {
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if hasPackageDoc(file) {
				documented = append(documented, name)
			}
		}
		if len(p.GoFiles) > 0 && len(documented) != 1 {
			t.Errorf("%s: want one file with a package comment, found %q", p.ImportPath, documented)
		}
	}
}

func hasPackageDoc(file *ast.File) bool { return file.Doc != nil && file.Doc.Text() != "" }

func TestNoDrawers(t *testing.T) {
	t.Parallel()
	for _, p := range goList(t, "./...") {
		switch name := p.ImportPath[strings.LastIndexByte(p.ImportPath, '/')+1:]; name {
		case "util", "utils", "common", "shared", "helper", "helpers", "types", "models", "misc", "base":
			t.Errorf("%s: %q says nothing of what is in it", p.ImportPath, name)
		}
	}
}

// TestEverySuiteRuns: the tests below test/ are no part of the suite "unit"; one
// that no other suite names would run nowhere.
func TestEverySuiteRuns(t *testing.T) {
	t.Parallel()
	script, err := os.ReadFile("../../scripts/test")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, p := range goList(t, "./test/...") {
		name, _, _ := strings.Cut(strings.TrimPrefix(p.room(), "test/"), "/")
		if len(p.Tests)+len(p.MoreTests) == 0 || name == "upgrade" { // which takes a release that is there: make test-upgrade
			continue
		}
		if found++; !strings.Contains(string(script), "./test/"+name+"/...") {
			t.Errorf("no suite of scripts/test runs %s", p.ImportPath)
		}
	}
	if found < 5 {
		t.Errorf("only %d packages with tests were found", found)
	}
}
