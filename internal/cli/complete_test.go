package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// raw runs a command line as it is.
func (c connected) raw(t *testing.T, args []string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	code = Main(t.Context(), "test", args, Streams{Out: &o, Err: &e})
	return code, o.String(), e.String()
}

// complete asks for what a line may go on with.
func (c connected) complete(t *testing.T, words []string) (found []string) {
	t.Helper()
	code, out, errs := c.raw(t, append([]string{completeWord}, words...))
	for l := range strings.Lines(out) {
		word, _, ok := strings.Cut(l, "\t")
		if !ok {
			t.Errorf("%s: %q has no tab", words, l)
		}
		found = append(found, word)
	}
	if code != ExitOK || errs != "" {
		t.Errorf("%s: exit code %d: %s", words, code, errs)
	}
	return found
}

func containsAll(all, wanted []string) bool {
	return !slices.ContainsFunc(wanted, func(w string) bool { return !slices.Contains(all, w) })
}

func TestComplete(t *testing.T) {
	t.Parallel()
	c := startConnected(t)
	ids := c.addHosts(t, "rack-7", "rack-8", "twin", "twin", "two words; rm -rf")
	code, job, _ := c.now(t, "run", "--no-files", "--detach", "--json", "--", "true")
	if code != ExitOK {
		t.Fatal(job)
	}
	var submitted struct {
		Job struct {
			ID string `json:"id"`
		} `json:"job"`
	}
	if err := json.Unmarshal([]byte(job), &submitted); err != nil {
		t.Fatal(err)
	}
	id := submitted.Job.ID
	here := []string{"--server", c.url, "--data", c.data}
	for _, test := range []struct {
		words string // the last one is begun; _ stands for an empty one
		want  []string
		not   []string
	}{
		{"_", []string{"run", "hosts", "completion", "up"}, []string{"--json", completeWord}},
		{"ho", []string{"hosts"}, []string{"run"}},
		{"hosts _", []string{"list", "cordon", "drain"}, []string{"run"}},
		{"hosts --j", []string{"--json"}, []string{"--data"}},
		{"run --exec", []string{"--executor"}, nil},
		{"run --executor m", []string{"microvm"}, []string{"docker"}},
		{"run --executor=d", []string{"--executor=docker"}, []string{"--executor=microvm"}},
		{"run -d --network n", []string{"none"}, nil},
		{"run -- --exec", nil, []string{"--executor"}},
		{"limits set _", []string{"org", "repo", "label"}, nil},
		{"limits set repo _", nil, []string{"org"}},
		{"completion _", []string{"bash", "zsh", "fish"}, nil},
		{"hosts cordon _", []string{"rack-7", "rack-8", ids[2], ids[3]}, []string{"twin", "two words; rm -rf"}},
		{"hosts cordon rack-7 _", nil, []string{"rack-8"}},
		{"hosts drain --timeout 5m rack", []string{"rack-7", "rack-8"}, []string{ids[2]}},
		{"logs _", []string{"last", id}, nil},
		{"accounts _", []string{"list"}, nil},
		{"bogus --bogus _", nil, []string{completeWord}},
	} {
		words := slices.Concat(here, strings.Fields(test.words))
		if words[len(words)-1] == "_" {
			words[len(words)-1] = ""
		}
		found := c.complete(t, words)
		// A busy machine may take longer than a shell waits for what the server knows.
		for until := time.Now().Add(time.Minute); !containsAll(found, test.want) && time.Now().Before(until); {
			found = c.complete(t, words)
		}
		for _, w := range test.want {
			if !slices.Contains(found, w) {
				t.Errorf("%s: %q is not among %q", test.words, w, found)
			}
		}
		for _, w := range test.not {
			if slices.Contains(found, w) {
				t.Errorf("%s: %q is among %q", test.words, w, found)
			}
		}
	}
	// A server that is not there costs candidates, and no words on the line.
	code, out, errs := c.raw(t, []string{completeWord, "--server", "http://127.0.0.1:1", "hosts", "cordon", ""})
	if code != ExitOK || out != "" || errs != "" {
		t.Errorf("exit code %d: %s%s", code, out, errs)
	}
}

// TestCompletionInBash: the script asks with the words up to the cursor, and
// bash gets what stands in the place of the word that is begun.
func TestCompletionInBash(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	code, script, errs := runIn(t, dir, "http://127.0.0.1:1", []string{"completion", "bash"})
	if code != ExitOK {
		t.Fatal(errs)
	}
	save(t, filepath.Join(dir, "script"), script)
	save(t, filepath.Join(dir, "nimbus"), "#!/bin/sh\nprintf '[%s]' \"$@\" > "+filepath.Join(dir, "asked")+"\nprintf -- '--executor=microvm\\tx y\\n--executor=docker\\tz\\n'\n")
	if err := os.Chmod(filepath.Join(dir, "nimbus"), 0o700); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]struct{ asked, found string }{
		"nimbus run --executor=":        {"[__complete][run][--executor=]", "microvm docker"},
		"nimbus run --exec":             {"[__complete][run][--exec]", "--executor=microvm --executor=docker"},
		"X=1 nimbus hosts cordon ":      {"[__complete][hosts][cordon][]", "--executor=microvm --executor=docker"},
		dir + "/nimbus run '*' $(exit)": {"[__complete][run]['*'][$(exit)]", "--executor=microvm --executor=docker"},
	} {
		cmd := exec.CommandContext(t.Context(), "bash", "--norc", "-c", `source "$1"; COMP_LINE=$2; COMP_POINT=${#2}; _nimbus; echo "${COMPREPLY[*]}"`, "bash", filepath.Join(dir, "script"), line)
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		asked, _ := os.ReadFile(filepath.Join(dir, "asked"))
		if err != nil || strings.TrimSpace(string(out)) != want.found || string(asked) != want.asked {
			t.Errorf("%s: %v: asked %s, found %s", line, err, asked, out)
		}
	}
}

// TestCompletionForOtherShells: they are asked for the same way.
func TestCompletionForOtherShells(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"zsh", "fish"} {
		code, script, errs := runIn(t, t.TempDir(), "http://127.0.0.1:1", []string{"completion", shell})
		if code != ExitOK || !strings.Contains(script, completeWord) {
			t.Errorf("%s: exit code %d: %s", shell, code, errs)
		}
		path, err := exec.LookPath(shell)
		if err != nil {
			continue // its grammar is looked at where it is there
		}
		file := filepath.Join(t.TempDir(), "script")
		save(t, file, script)
		if out, err := exec.CommandContext(t.Context(), path, "-n", file).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", shell, err, out)
		}
	}
}
