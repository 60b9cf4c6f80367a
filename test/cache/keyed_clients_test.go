package cache_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// start runs a client as a job does, in a folder, and returns what it says.
func (w *world) start(folder string, env []string, command ...string) string {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), command[0], command[1:]...)
	cmd.Dir, cmd.Env = folder, append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.t.TempDir()}, env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return string(out)
}

func (w *world) write(folder string, files map[string]string) {
	w.t.Helper()
	for name, content := range files {
		path := filepath.Join(folder, name)
		w.must(os.MkdirAll(filepath.Dir(path), 0o700))
		w.must(os.WriteFile(path, []byte(content), 0o600))
	}
}

// TestCcache compiles on one machine, and on another without compiling, in each of
// its layouts.
func TestCcache(t *testing.T) {
	testenv.Require(t, "ccache", "gcc")
	for _, layout := range []string{"flat", "subdirs", "bazel"} {
		both(t, func(t *testing.T, w *world) {
			me := w.as(job())
			folder := t.TempDir()
			w.write(folder, map[string]string{"a.c": "int answer(void) { return 42; }\n"})
			machine := func(token string) (counted func(string) int) {
				env := []string{
					"CCACHE_DIR=" + t.TempDir(), "CCACHE_REMOTE_ONLY=true",
					"CCACHE_REMOTE_STORAGE=" + strings.Replace(me.path("ccache"), "http://", "http://job:"+token+"@", 1) + "|layout=" + layout,
				}
				if layout == "bazel" { // at ac/, as Bazel's own
					env[2] = strings.Replace(env[2], "/ccache|", "|", 1)
				}
				w.start(folder, env, "ccache", "gcc", "-c", "a.c", "-o", "a.o")
				stats := w.start(folder, env, "ccache", "--print-stats")
				return func(name string) int {
					for line := range strings.Lines(stats) {
						if key, value, _ := strings.Cut(strings.TrimSpace(line), "\t"); key == name {
							n, err := strconv.Atoi(value)
							w.must(err)
							return n
						}
					}
					return 0
				}
			}
			if first := machine(me.token); first("remote_storage_hit") != 0 || first("remote_storage_error") != 0 || first("cache_miss") != 1 {
				t.Error("the first machine has hits or errors")
			}
			if second := machine(me.token); second("remote_storage_hit") == 0 || second("remote_storage_error") != 0 || second("cache_miss") != 0 {
				t.Errorf("the second machine compiles, or has errors: %d hits, %d errors, %d misses", second("remote_storage_hit"), second("remote_storage_error"), second("cache_miss"))
			}
			if third := machine("wrong"); third("remote_storage_hit") != 0 || third("cache_miss") != 1 {
				t.Error("who has no token has hits, or does not go on without")
			}
		})
	}
}

// TestTurborepo runs a task on one machine, and restores it on another.
func TestTurborepo(t *testing.T) {
	turbo, err := filepath.Abs("clients/node_modules/.bin/turbo")
	if err != nil {
		t.Fatal(err)
	}
	testenv.Require(t, "node", "npm", "git", turbo)
	both(t, func(t *testing.T, w *world) {
		me := w.as(job())
		machine := func() (folder, said string) {
			folder = t.TempDir()
			w.write(folder, map[string]string{
				"package.json":       `{"name":"root","private":true,"packageManager":"npm@10.0.0","workspaces":["app"]}`,
				"package-lock.json":  `{"name":"root","lockfileVersion":3,"requires":true,"packages":{"":{"name":"root","workspaces":["app"]},"app":{"version":"1.0.0"},"node_modules/app":{"resolved":"app","link":true}}}`,
				"turbo.json":         `{"tasks":{"build":{"outputs":["dist/**"]}}}`,
				"app/package.json":   `{"name":"app","version":"1.0.0","scripts":{"build":"mkdir -p dist && date +%N > dist/built"}}`,
				"app/index.js":       "1\n",
				"node_modules/.keep": "",
				".gitignore":         "node_modules\ndist\n.turbo\n",
			})
			said = w.start(folder, []string{
				"TURBO_API=" + me.url + "/cache/" + nimbus.DefaultOrgID, "TURBO_TOKEN=" + me.token, "TURBO_TEAM=nimbus",
				"TURBO_TELEMETRY_DISABLED=1", "TURBO_NO_UPDATE_NOTIFIER=1", "TURBO_REMOTE_CACHE_SIGNATURE_KEY=a key of the test's", "CI=1",
			}, turbo, "run", "build", "--cache=remote:rw", "--no-daemon")
			return folder, said
		}
		first, said := machine()
		if !strings.Contains(said, "cache miss") {
			t.Fatal(said)
		}
		built, err := os.ReadFile(filepath.Join(first, "app/dist/built"))
		w.must(err)
		second, said := machine()
		again, err := os.ReadFile(filepath.Join(second, "app/dist/built"))
		if err != nil || string(again) != string(built) || !strings.Contains(said, "cache hit") {
			t.Errorf("%v\n%s", err, said)
		}
		entries, _, err := w.cache.List(t.Context(), nimbus.DefaultOrgID, job().Repo, cache.Filter{}, nimbus.PageRequest{})
		w.must(err)
		if len(entries) != 1 || entries[0].Version != cache.Own+"turborepo" {
			t.Errorf("%+v", entries)
		}
	})
}
