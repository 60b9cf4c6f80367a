package workflow

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus/internal/forge/githubtest/protocol"
)

const whole = `# a comment
name: CI
on: [push]
env: {A: workflow, B: workflow}
jobs:
  build:
    runs-on: nimbus
    env:
      B: job
      N: 3
    steps:
      - uses: actions/checkout@v4
      - name: Test
        run: |
          echo one
          echo two
        shell: bash
        working-directory: src
        timeout-minutes: 5
        continue-on-error: true
        env: {C: step}
  matrix:
    name: try ${{ matrix.v }}
    needs: build
    if: ${{ always() }}
    runs-on: [nimbus, "cpu:${{ matrix.v }}"]
    strategy:
      fail-fast: false
      matrix: {v: [1, two]}
    steps:
      - run: echo ${{matrix.v}}
        if: failure()
`

func TestParse(t *testing.T) {
	t.Parallel()
	got, err := Parse("ci.yml", []byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	try := func(v string) Job {
		return Job{
			Key: "matrix", Name: "try " + v, RunsOn: []string{"nimbus", "cpu:" + v}, Needs: []string{"build"}, If: "always()",
			Env:   map[string]string{"A": "workflow", "B": "workflow"},
			Steps: []protocol.Step{{Name: "Run echo " + v, Run: "echo " + v, If: "failure()"}},
		}
	}
	want := &Workflow{
		Name: "CI", Path: "ci.yml", Env: map[string]string{"A": "workflow", "B": "workflow"},
		Jobs: []Job{{
			Key: "build", Name: "build", RunsOn: []string{"nimbus"},
			Env: map[string]string{"A": "workflow", "B": "job", "N": "3"},
			Steps: []protocol.Step{
				{Name: "Run actions/checkout@v4", Uses: "actions/checkout@v4"},
				{
					Name: "Test", Run: "echo one\necho two\n", Shell: "bash", WorkingDirectory: "src",
					TimeoutMinutes: 5, ContinueOnError: true, Env: map[string]string{"C": "step"},
				},
			},
		}, try("1"), try("two")},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestFaultsNameTheirLine(t *testing.T) {
	t.Parallel()
	const head = "on: push\njobs:\n  a:\n    runs-on: nimbus\n"
	const steps = "    steps:\n      - run: x\n"
	tests := map[string]struct {
		file string
		line int
		says string
	}{
		"not YAML":             {"a: [", 1, ""},
		"empty":                {"", 1, "one YAML document"},
		"a list":               {"- a", 1, "mapping"},
		"no jobs":              {"on: push", 1, "no jobs"},
		"unknown key":          {"on: push\nconcurrency: x\njobs: {}", 2, `"concurrency"`},
		"unknown key of a job": {head + "    concurrency: alpine\n" + steps, 5, `"concurrency"`},
		"unknown key of step":  {head + steps + "        with: {a: b}\n", 7, `"with"`},
		"no runs-on":           {"jobs:\n  a:\n    steps: [{run: x}]", 3, "no runs-on"},
		"no steps":             {head, 4, "no steps"},
		"run and uses":         {head + steps + "        uses: y\n", 6, "either run or uses"},
		"another shell":        {head + steps + "        shell: pwsh\n", 7, "pwsh"},
		"another condition":    {head + steps + "        if: github.ref == 'x'\n", 7, "not supported"},
		"expression":           {head + "    steps:\n      - run: echo ${{ secrets.X }}\n", 4, "secrets.X"},
		"needs nothing":        {head + "    needs: b\n" + steps, 1, `needs "b"`},
		"circle":               {head + "    needs: a\n" + steps, 1, "circle"},
		"timeout of words":     {head + "    timeout-minutes: soon\n" + steps, 5, "whole number"},
		"timeout of nothing":   {head + "    timeout-minutes: 0\n" + steps, 5, "from 1"},
		"matrix, fail fast":    {head + "    strategy: {matrix: {v: [1]}}\n" + steps, 5, "fail-fast: false"},
		"matrix, huge":         {head + "    strategy: {fail-fast: false, matrix: {v: [" + strings.Repeat("1,", 20) + "1], w: [" + strings.Repeat("1,", 20) + "1]}}\n" + steps, 5, "more than 256"},
		"anchor":               {head + "    env: &e {A: b}\n" + steps, 5, "mapping"},
		"bad variable":         {head + "    env: {\"A B\": c}\n" + steps, 5, "no name of a variable"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse("ci.yml", []byte(tt.file))
			var bad *Error
			if !errors.As(err, &bad) {
				t.Fatalf("got %v, want an *Error", err)
			}
			if bad.Line != tt.line || !strings.Contains(bad.Message, tt.says) {
				t.Errorf("got %v, want line %d with %q", err, tt.line, tt.says)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(whole))
	f.Fuzz(func(t *testing.T, b []byte) {
		w, err := Parse("ci.yml", b)
		var bad *Error
		if err != nil && !errors.As(err, &bad) {
			t.Fatalf("%v is no *Error", err)
		}
		if err == nil && (len(w.Jobs) == 0 || len(w.Jobs) > maxJobs) {
			t.Fatalf("%d jobs", len(w.Jobs))
		}
	})
}

func TestContainers(t *testing.T) {
	t.Parallel()
	const head = "on: push\njobs:\n  a:\n    runs-on: nimbus\n    steps: [{run: ls}]\n    "
	w, err := Parse("ci.yml", []byte(head+`container: "node:22"
    services:
      db:
        image: postgres:17
        env: {PASSWORD: x}
        ports: [5432, "8080:80/tcp"]
        volumes: ["kept:/var/lib"]
        options: >-
          --health-cmd "pg_isready -U 'me'" --label 'it''s' --empty ""
      cache: redis
`))
	if err != nil {
		t.Fatal(err)
	}
	want := []protocol.Container{
		{
			Alias: "db", Image: "postgres:17", Env: map[string]string{"PASSWORD": "x"}, Ports: []string{"5432", "8080:80/tcp"}, Volumes: []string{"kept:/var/lib"},
			Options: []string{"--health-cmd", "pg_isready -U 'me'", "--label", "its", "--empty", ""},
		},
		{Alias: "cache", Image: "redis"},
	}
	if diff := cmp.Diff(want, w.Jobs[0].Services); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(&protocol.Container{Image: "node:22"}, w.Jobs[0].Container); diff != "" {
		t.Error(diff)
	}
	for text, says := range map[string]string{
		"container: {env: {A: b}}":                          "a container needs an image",
		"container: {image: x, credentials: {username: y}}": `the key "credentials" is not supported`,
		"services: {-db: x}":                                "no name of a service",
		"services: {db: {image: x, options: 'a \"b'}}":      "is not closed",
		"services: {db: {image: x, ports: 80}}":             "here belongs a list",
	} {
		if _, err := Parse("ci.yml", []byte(head+text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
