package logs_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/logs"
)

func TestLevelOf(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]logs.Level{
		"":                                      logs.LevelNone,
		"ok  	example.test/a	0.1s":              logs.LevelNone,
		"no error here":                         logs.LevelNone,
		"the level of detail":                   logs.LevelNone,
		"::error file=a.go,line=3::broken":      logs.LevelError,
		"::error::broken":                       logs.LevelError,
		"  ::warning::old":                      logs.LevelWarn,
		"::notice::hello":                       logs.LevelInfo,
		"::debug::x":                            logs.LevelDebug,
		"::errors::x":                           logs.LevelNone,
		"##[error]Process completed":            logs.LevelError,
		"##[group]Run ERRORS":                   logs.LevelNone,
		"2026-01-01T00:00:00Z ERROR cannot":     logs.LevelError,
		"[WARN] slow":                           logs.LevelWarn,
		"\x1b[31mERROR\x1b[0m red":              logs.LevelError,
		"INFO: WARN is a word":                  logs.LevelInfo,
		"MY_ERROR=1":                            logs.LevelNone,
		"TERRORS":                               logs.LevelNone,
		`{"ts":1,"level":"warn","msg":"ERROR"}`: logs.LevelWarn,
		`{"severity":1,"loglevel": "Fatal"}`:    logs.LevelError,
		"time=1 level=debug msg=x":              logs.LevelDebug,
		"TRACE x":                               logs.LevelDebug,
		strings.Repeat("x ", 200) + "ERROR far away": logs.LevelNone,
	} {
		if got := logs.LevelOf(text); got != want {
			t.Errorf("%q: level %d, want %d", text, got, want)
		}
	}
}

// TestLevelsOfCommands: what is labelled as an error is found as one. The web app and the
// command line read the same lines.
func TestLevelsOfCommands(t *testing.T) {
	t.Parallel()
	var all []struct {
		Line  string `json:"line"`
		Level string `json:"level"`
	}
	if text, err := os.ReadFile("testdata/commands.json"); err != nil || json.Unmarshal(text, &all) != nil || len(all) == 0 {
		t.Fatal(err, len(all))
	}
	for _, each := range all {
		if got := [...]string{"", "debug", "info", "warn", "error"}[logs.LevelOf(each.Line)]; got != each.Level {
			t.Errorf("%q: level %q, want %q", each.Line, got, each.Level)
		}
	}
	far := "::error file=" + strings.Repeat("directory/", 50) + "a.go,line=3::broken"
	if got := logs.LevelOf(far); got != logs.LevelError {
		t.Errorf("a command with a long path: level %d", got)
	}
}

func FuzzLevelOf(f *testing.F) {
	f.Add("level=")
	f.Add("::error")
	f.Fuzz(func(t *testing.T, text string) {
		if l := logs.LevelOf(text); l > logs.LevelError {
			t.Errorf("%q: level %d", text, l)
		}
	})
}
