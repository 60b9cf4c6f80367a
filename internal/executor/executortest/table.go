package executortest

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// resultsVariable names a folder for what became of each case.
const resultsVariable = "NIMBUS_CONFORMANCE"

type result struct {
	Case string `json:"case"`
	OK   bool   `json:"ok"`

	Without string `json:"without,omitempty"` // why it was not tried
}

// keepResults writes them to a file of the executor's name, where that is asked
// for.
func keepResults(t *testing.T, executor string, results []result) {
	t.Helper()
	dir := os.Getenv(resultsVariable)
	if dir == "" {
		return
	}
	raw, err := json.Marshal(results)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, executor+".json"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Table writes the results in a folder as a table of cases and executors.
func Table(w io.Writer, dir string) error {
	paths, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return fmt.Errorf("list results: %w", err)
	}
	var executors, cases, notes []string
	passed := map[string]map[string]string{}
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read results: %w", err)
		}
		var results []result
		if err := json.Unmarshal(raw, &results); err != nil {
			return fmt.Errorf("read results: %w", err)
		}
		name := strings.TrimSuffix(filepath.Base(path), ".json")
		executors, passed[name] = append(executors, name), map[string]string{}
		for _, r := range results {
			if !slices.Contains(cases, r.Case) {
				cases = append(cases, r.Case)
			}
			passed[name][r.Case] = map[bool]string{true: "✓", false: "✗"}[r.OK]
			if r.Without != "" {
				passed[name][r.Case] = "–"
				notes = append(notes, fmt.Sprintf("%s on %s was not tried: %s.", r.Case, name, r.Without))
			}
		}
	}
	fmt.Fprintf(w, "| case | %s |\n|---|%s\n", strings.Join(executors, " | "), strings.Repeat("---|", len(executors)))
	for _, c := range cases {
		fmt.Fprintf(w, "| %s |", c)
		for _, e := range executors {
			fmt.Fprintf(w, " %s |", passed[e][c])
		}
		fmt.Fprintln(w)
	}
	for _, note := range notes {
		fmt.Fprintf(w, "\n%s\n", note)
	}
	return nil
}
