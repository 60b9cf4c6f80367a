package cli

import (
	"bytes"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// update rewrites the page: go generate ./internal/cli.
var update = flag.Bool("update", false, "write docs/cli.md anew")

const page = "../../docs/cli.md"

func TestReferencePage(t *testing.T) {
	t.Parallel()
	var got bytes.Buffer
	if err := WriteReference(&got); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(page, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got.String(), "\n")); diff != "" {
		t.Errorf("docs/cli.md is not what the commands are: go generate ./internal/cli\n%s", diff)
	}
}

// TestEveryCommandHasExamples: a command's help ends with how it is used.
func TestEveryCommandHasExamples(t *testing.T) {
	t.Parallel()
	p, err := parser(&root{}, Streams{Out: os.Stdout, Err: os.Stderr}, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range p.Model.Leaves(false) {
		if _, examples, _ := strings.Cut(n.Detail, examplesTitle); !strings.Contains(examples, "nimbus") {
			t.Errorf("%s has no example", n.Path())
		}
		if n.Help == "" {
			t.Errorf("%s has no help", n.Path())
		}
		for _, f := range n.Flags {
			if f.Help == "" {
				t.Errorf("%s: --%s has no help", n.Path(), f.Name)
			}
			// Whoever may list processes reads command lines. Keys that open nothing are
			// marked as public.
			if name := strings.ToLower(f.Name); (strings.Contains(name, "token") || strings.Contains(name, "secret") || strings.Contains(name, "key")) && !f.IsBool() && f.Tag.Type != "path" && !f.Tag.Has("public") {
				t.Errorf("%s: --%s would put a secret on the command line", n.Path(), f.Name)
			}
		}
	}
}
