package audit

import (
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// action is what the ledger calls something that was done.
var action = regexp.MustCompile(`^[a-z]+(_[a-z]+)*\.[a-z]+(_[a-z]+)*$`)

// noActions look like actions, in packages that record some.
var noActions = []string{"admin.token", "credential.json", "master.key", "nimbus.db", "j.id", "t.job_id", "a.host_id", "v.log_total", "index.html", "docker.io"}

// TestEveryActionIsDocumented: docs/audit.md lists the actions that the code
// has, and no others.
func TestEveryActionIsDocumented(t *testing.T) {
	t.Parallel()
	if diff := cmp.Diff(documented(t), actionsOf(t, filepath.Join("..", ".."))); diff != "" {
		t.Errorf("docs/audit.md and the code differ (-documented +in the code):\n%s", diff)
	}
}

// documented are the actions of the table.
func documented(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "audit.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "| action | of |")
	table, _, _ = strings.Cut(table, "\n\n")
	found := map[string]bool{}
	for _, row := range strings.Split(table, "\n") {
		cells := strings.Split(row, "|")
		if len(cells) != 4 {
			continue
		}
		for _, word := range regexp.MustCompile("`([^`]*)`").FindAllStringSubmatch(cells[1], -1) {
			if !action.MatchString(word[1]) {
				t.Errorf("%q is no action", word[1])
			}
			found[word[1]] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// actionsOf are the actions that stand in the packages which make audit events.
func actionsOf(t *testing.T, root string) []string {
	t.Helper()
	packages := map[string][]*ast.File{}
	files := gotoken.NewFileSet()
	err := filepath.WalkDir(filepath.Join(root, "internal"), func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || d.Name() == "gen"):
			return fs.SkipDir
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		packages[filepath.Dir(path)] = append(packages[filepath.Dir(path)], file)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, files := range packages {
		if slices.ContainsFunc(files, makesEvents) {
			for _, f := range files {
				actionsIn(f, found)
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// makesEvents tells of a file that has an audit event made.
func makesEvents(f *ast.File) (made bool) {
	ast.Inspect(f, func(n ast.Node) bool {
		if c, ok := n.(*ast.CompositeLit); ok {
			if name, ok := c.Type.(*ast.SelectorExpr); ok {
				made = made || name.Sel.Name == "AuditEvent"
			}
		}
		return !made
	})
	return made
}

func actionsIn(f *ast.File, found map[string]bool) {
	ast.Inspect(f, func(n ast.Node) bool {
		if literal, ok := n.(*ast.BasicLit); ok && literal.Kind == gotoken.STRING {
			text, err := strconv.Unquote(literal.Value)
			if err == nil && action.MatchString(text) && !slices.Contains(noActions, text) {
				found[text] = true
			}
		}
		return true
	})
}
