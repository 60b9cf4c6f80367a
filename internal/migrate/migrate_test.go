package migrate

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var image = []string{"bash", "curl", "git", "tar"} //nolint:gochecknoglobals // of the tests

func look(t *testing.T, text string) File {
	t.Helper()
	f, err := Workflow("ci.yml", []byte(text), DefaultSize, image)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestFilesStayAsTheyAre compares each workflow in testdata with the one that
// it becomes.
func TestFilesStayAsTheyAre(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("testdata/*.yml")
	if err != nil || len(paths) == 0 {
		t.Fatal("no workflows", err)
	}
	for _, path := range paths {
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		f, err := Workflow(path, before, DefaultSize, image)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		want, err := os.ReadFile(path + ".want")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(f.After)); diff != "" {
			t.Errorf("%s becomes (-want +got):\n%s", path, diff)
		}
		again, err := Workflow(path, f.After, DefaultSize, image)
		if err != nil || again.Changed() {
			t.Errorf("%s: the second time it is changed again: %v", path, err)
		}
	}
}

func TestRunsOn(t *testing.T) {
	t.Parallel()
	for before, want := range map[string]string{
		"ubuntu-latest":                       `[nimbus, "cpu:2", "memory:8"]`,
		"'ubuntu-24.04'":                      `[nimbus, "cpu:2", "memory:8"]`,
		`"ubuntu-22.04" # old`:                `[nimbus, "cpu:2", "memory:8"] # old`,
		"[ ubuntu-latest ] # list":            `[nimbus, "cpu:2", "memory:8"] # list`,
		"ubuntu-24.04-arm":                    `[nimbus, arm64, "cpu:2", "memory:8"]`,
		"ubuntu-latest-16-cores":              `[nimbus, "cpu:16", "memory:64"]`,
		"ubuntu-22.04-4core":                  `[nimbus, "cpu:4", "memory:16"]`,
		"\n      - ubuntu-latest # why\n":     "\n      - nimbus # why\n      - \"cpu:2\"\n      - \"memory:8\"\n",
		"windows-latest":                      "windows-latest",
		"macos-14":                            "macos-14",
		"[self-hosted, linux]":                "[self-hosted, linux]",
		"big-iron":                            "big-iron",
		"{group: big, labels: ubuntu-latest}": "{group: big, labels: ubuntu-latest}",
		"${{ inputs.where }}":                 "${{ inputs.where }}",
		"${{ matrix.os }}":                    "${{ matrix.os }}", // of which nothing is known
		"[nimbus, gpu]":                       "[nimbus, gpu]",
	} {
		const head, tail = "on: push\njobs:\n  a:\n    runs-on: ", "\n    steps: [{run: 'true'}]\n"
		f := look(t, head+before+tail)
		if got := strings.TrimSuffix(strings.TrimPrefix(string(f.After), head), tail); got != want {
			t.Errorf("%s becomes %s", before, got)
		}
		j := f.Jobs[0]
		if j.Verdict == Stays && (len(j.Notes) == 0 || j.Notes[0].Line == 0) {
			t.Errorf("%s stays without a reason: %+v", before, j)
		}
		if (j.Verdict == Moves) != f.Changed() {
			t.Errorf("%s: %s, changed %v", before, j.Verdict, f.Changed())
		}
	}
}

func TestWhatStaysSaysWhy(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		"services: {db: {image: postgres}}\n    steps: [{run: ls}]": "services",
		"container: node:22\n    steps: [{run: ls}]":                "container",
		"steps: [{uses: 'docker://alpine:3'}]":                      "is a container",
		"steps: [{uses: docker/build-push-action@v6}]":              "needs Docker",
		"steps: [{run: 'cd x && docker build .'}]":                  "calls docker",
		"steps: [{run: \"sudo docker ps\"}]":                        "calls docker",
	} {
		f := look(t, "jobs:\n  a:\n    runs-on: ubuntu-latest\n    "+body+"\n")
		j := f.Jobs[0]
		if j.Verdict != Stays || f.Changed() || len(j.Notes) != 1 || !strings.Contains(j.Notes[0].Message, want) || j.Notes[0].Line != 4 {
			t.Errorf("%s: %+v", body, j)
		}
	}
}

func TestWhatMovesSaysWhatDiffers(t *testing.T) {
	t.Parallel()
	f := look(t, `jobs:
  a:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/setup-node@v4
      - uses: actions/setup-python@v5
      - run: |
          npm ci
          curl -s example.com | jq .
          FOO=1 make test
      - run: Get-Item .
        shell: pwsh
  b:
    uses: ./.github/workflows/other.yml
`)
	want := []Note{
		{6, "actions/setup-python@v5 may find nothing", ubuntuOnly["actions/setup-python"]},
		{7, "the image has no jq, make, pwsh, which GitHub's has",
			"bring it by an action that sets it up, or have it in the image; Debian's packages: jq make"},
	}
	if diff := cmp.Diff(want, f.Jobs[0].Notes); diff != "" || f.Jobs[0].Verdict != Moves {
		t.Errorf("%s (-want +got):\n%s", f.Jobs[0].Verdict, diff)
	}
	if f.Jobs[1].Verdict != Calls {
		t.Errorf("a call: %+v", f.Jobs[1])
	}
}

func TestWindowsLineEndings(t *testing.T) {
	t.Parallel()
	f := look(t, "jobs:\r\n  a:\r\n    runs-on:\r\n      - ubuntu-latest\r\n    steps: []\r\n")
	want := "jobs:\r\n  a:\r\n    runs-on:\r\n      - nimbus\r\n      - \"cpu:2\"\r\n      - \"memory:8\"\r\n    steps: []\r\n"
	if string(f.After) != want {
		t.Errorf("it becomes %q", f.After)
	}
}

// TestAnchors: what is written once and meant often moves as a whole, in part
// with labels of its own, or not at all, and never without being told.
func TestAnchors(t *testing.T) {
	t.Parallel()
	const moved, steps = `[nimbus, "cpu:2", "memory:8"]`, "steps: [{run: ls}]"
	for name, tt := range map[string]struct{ before, after, verdicts string }{
		"all move": {
			"jobs:\n  a:\n    runs-on: &r ubuntu-latest # all\n    " + steps + "\n  b: {runs-on: *r, " + steps + "}\n",
			"jobs:\n  a:\n    runs-on: &r " + moved + " # all\n    " + steps + "\n  b: {runs-on: " + moved + ", " + steps + "}\n", "moves+moves",
		},
		"one stays": {
			"jobs:\n  a: {runs-on: &r ubuntu-latest, " + steps + "}\n  b: {runs-on: *r, services: {db: {image: x}}, " + steps + "}\n  c: {runs-on: *r, " + steps + "}\n",
			"jobs:\n  a: {runs-on: &r ubuntu-latest, " + steps + "}\n  b: {runs-on: *r, services: {db: {image: x}}, " + steps + "}\n  c: {runs-on: " + moved + ", " + steps + "}\n", "stays+stays+moves",
		},
		"it means something else too": {
			"jobs:\n  a: {runs-on: &r ubuntu-latest, " + steps + "}\n  b: {runs-on: *r, env: {ON: *r}, " + steps + "}\n",
			"jobs:\n  a: {runs-on: &r ubuntu-latest, " + steps + "}\n  b: {runs-on: " + moved + ", env: {ON: *r}, " + steps + "}\n", "stays+moves",
		},
		"not referred to": {
			"jobs:\n  a: {runs-on: &r [ubuntu-latest], " + steps + "}\n",
			"jobs:\n  a: {runs-on: &r " + moved + ", " + steps + "}\n", "moves",
		},
		"a whole job": {
			"jobs:\n  a: &a {runs-on: ubuntu-latest, " + steps + "}\n  b: *a\n",
			"jobs:\n  a: &a {runs-on: ubuntu-latest, " + steps + "}\n  b: *a\n", "stays+stays",
		},
		"steps that need Docker": {
			"jobs:\n  a: {runs-on: windows-latest, steps: &s [{run: docker ps}]}\n  b: {runs-on: ubuntu-latest, steps: *s}\n",
			"jobs:\n  a: {runs-on: windows-latest, steps: &s [{run: docker ps}]}\n  b: {runs-on: ubuntu-latest, steps: *s}\n", "stays+stays",
		},
		"a matrix": {
			"jobs:\n  a: {runs-on: windows-latest, strategy: &m {matrix: {os: [ubuntu-latest]}}, " + steps + "}\n  b:\n    strategy: *m\n    runs-on: ${{ matrix.os }}\n    " + steps + "\n",
			"jobs:\n  a: {runs-on: windows-latest, strategy: &m {matrix: {os: [ubuntu-latest]}}, " + steps + "}\n  b:\n    strategy: *m\n    runs-on: " + moved + "\n    " + steps + "\n", "stays+moves",
		},
	} {
		f := look(t, tt.before)
		var verdicts []string
		for _, j := range f.Jobs {
			verdicts = append(verdicts, string(j.Verdict))
			if j.Verdict == Stays && len(j.Notes) == 0 {
				t.Errorf("%s: %s stays without a reason", name, j.ID)
			}
		}
		if got := strings.Join(verdicts, "+"); got != tt.verdicts {
			t.Errorf("%s: %s, want %s", name, got, tt.verdicts)
		}
		if diff := cmp.Diff(tt.after, string(f.After)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestOddities of files that are workflows all the same.
func TestOddities(t *testing.T) {
	t.Parallel()
	const moved = `[nimbus, "cpu:2", "memory:8"]`
	for name, tt := range map[string]struct{ before, after string }{
		"not ASCII before it":    {"jobs: {übung: {name: 'größe 漢字 🚀', runs-on: ubuntu-latest, steps: []}}\n", "jobs: {übung: {name: 'größe 漢字 🚀', runs-on: " + moved + ", steps: []}}\n"},
		"a byte order mark":      {"\ufeffjobs:\n  a:\n    runs-on: ubuntu-latest\n", "\ufeffjobs:\n  a:\n    runs-on: " + moved + "\n"},
		"Windows lines":          {"jobs:\r\n  a:\r\n    runs-on: ubuntu-latest # x\r\n    name: y\r\n", "jobs:\r\n  a:\r\n    runs-on: " + moved + " # x\r\n    name: y\r\n"},
		"no last newline":        {"jobs:\n  a:\n    runs-on: ubuntu-latest", "jobs:\n  a:\n    runs-on: " + moved},
		"a list over lines":      {"jobs:\n  a:\n    runs-on: [\n      ubuntu-latest,\n    ]\n", "jobs:\n  a:\n    runs-on: " + moved + "\n"},
		"a comment in the list":  {"jobs:\n  a:\n    runs-on: [\n      ubuntu-latest, # why\n    ]\n", ""},
		"folded":                 {"jobs:\n  a:\n    runs-on: >-\n      ubuntu-latest\n", ""},
		"tagged":                 {"jobs:\n  a:\n    runs-on: !!str ubuntu-latest\n", ""},
		"a group":                {"jobs:\n  a:\n    runs-on:\n      group: big\n      labels: ubuntu-latest\n", ""},
		"a choice":               {"jobs:\n  a:\n    runs-on: ${{ github.event_name == 'push' && 'ubuntu-latest' || 'windows-latest' }}\n", ""},
		"an expression in part":  {"jobs:\n  a:\n    runs-on: ubuntu-${{ inputs.version }}\n", ""},
		"a list of expressions":  {"jobs:\n  a:\n    runs-on: ['${{ inputs.a }}', '${{ inputs.b }}']\n", ""},
		"of a matrix of objects": {"jobs:\n  a:\n    strategy: {matrix: {on: [{os: ubuntu-latest}]}}\n    runs-on: ${{ matrix.on.os }}\n", ""},
		"of a computed matrix":   {"jobs:\n  a:\n    strategy: {matrix: {os: '${{ fromJSON(inputs.os) }}'}}\n    runs-on: ${{ matrix.os }}\n", ""},
		"quoted, in a matrix":    {"jobs:\n  a:\n    strategy: {matrix: {os: [ubuntu-latest]}}\n    runs-on: \"${{ matrix.os }}\"\n", "jobs:\n  a:\n    strategy: {matrix: {os: [ubuntu-latest]}}\n    runs-on: " + moved + "\n"},
		"nothing":                {"jobs:\n  a:\n    runs-on:\n    steps: []\n", ""},
		"a number":               {"jobs:\n  a:\n    runs-on: 7\n", ""},
		"no jobs in it":          {"jobs: {}\n", ""},
		"it refers to itself":    {"jobs:\n  a:\n    runs-on: ubuntu-latest\n    env: &e {x: [*e]}\n", ""},
	} {
		f, err := Workflow("ci.yml", []byte(tt.before), DefaultSize, image)
		if tt.after == "" {
			tt.after = tt.before
		}
		if err == nil && string(f.After) != tt.after {
			t.Errorf("%s becomes %q", name, f.After)
		}
		if err != nil && tt.after != tt.before {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAliasBombs: what is a few lines in the file, and more than all memory once
// it is written out, ends soon.
func TestAliasBombs(t *testing.T) {
	t.Parallel()
	bomb := "jobs:\n  a: {runs-on: ubuntu-latest}\nenv:\n  x0: &x0 [lol, lol]\n"
	for i := range 40 {
		bomb += fmt.Sprintf("  x%d: &x%d [*x%d, *x%d, *x%d, *x%d]\n", i+1, i+1, i, i, i, i)
	}
	if _, err := Workflow("ci.yml", []byte(bomb), DefaultSize, image); err == nil || !strings.Contains(err.Error(), "ci.yml") {
		t.Errorf("it is taken: %v", err)
	}
}

func TestAMatrixMayMoveInPart(t *testing.T) {
	t.Parallel()
	f := look(t, "jobs:\n  a:\n    strategy: {matrix: {os: [ubuntu-latest, macos-14]}}\n    runs-on: ${{ matrix.os }}\n    steps: []\n")
	want := []Note{{Line: 4, Message: "some of the matrix stays at GitHub: macos-14: Nimbus runs Linux alone"}}
	if diff := cmp.Diff(want, f.Jobs[0].Notes); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestBadFiles(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "a: [", "name: x", "- a\n- b", "jobs:\n\tx: y", "a: 1\n---\nb: 2", strings.Repeat("#", MaxFile+1)} {
		if _, err := Workflow("ci.yml", []byte(text), DefaultSize, image); err == nil || !strings.Contains(err.Error(), "ci.yml") {
			t.Errorf("%.20q: %v", text, err)
		}
	}
}

func FuzzWorkflow(f *testing.F) {
	paths, _ := filepath.Glob("testdata/*.yml")
	for _, path := range paths {
		if text, err := os.ReadFile(path); err == nil {
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		out, err := Workflow("ci.yml", text, DefaultSize, image)
		if err == nil && out.Changed() {
			if _, err := Workflow("ci.yml", out.After, DefaultSize, image); err != nil {
				t.Errorf("it is broken by its change: %v", err)
			}
		}
	})
}
