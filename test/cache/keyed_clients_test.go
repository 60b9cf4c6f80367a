package cache_test

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
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
	for _, layout := range []string{"flat", "subdirs", "bazel"} {
		t.Run(layout, func(t *testing.T) {
			both(t, func(t *testing.T, w *world) {
				cc := ccache(layout)
				w.compiles(cc, small, compiled{misses: 1})
				w.compiles(cc, small, compiled{hits: 1})
				if got := cc.compile(w, "wrong", small, false); got.hits != 0 || got.misses != 1 {
					t.Errorf("who has no token has hits, or does not go on without: %+v", got)
				}
			})
		})
	}
}

// TestTurborepo runs a task on one machine, and restores it on another.
func TestTurborepo(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		first := w.turbo("1", 100)
		if first.hit {
			t.Fatal(first.said)
		}
		if second := w.turbo("1", 100); !second.hit || second.built != first.built {
			t.Errorf("another content\n%s", second.said)
		}
		entries, _, err := w.cache.List(t.Context(), nimbus.DefaultOrgID, job().Repo, cache.Filter{}, nimbus.PageRequest{})
		w.must(err)
		if len(entries) != 1 || entries[0].Version != cache.Own+"turborepo" {
			t.Errorf("%+v", entries)
		}
	})
}

// turboRun is what a machine has of a task.
type turboRun struct {
	said  string
	hit   bool   // it came from the cache
	built string // the hash of what it made, or has from there
}

// turbo runs a task with an input on a machine that has nothing yet. The task makes
// a file of random bytes.
func (w *world) turbo(input string, size int, cached ...string) (r turboRun) {
	w.t.Helper()
	program, err := filepath.Abs("clients/node_modules/.bin/turbo")
	w.must(err)
	testenv.Require(w.t, "node", "npm", "git", program)
	me, folder := w.as(job()), w.t.TempDir()
	w.write(folder, map[string]string{
		"package.json":       `{"name":"root","private":true,"packageManager":"npm@10.0.0","workspaces":["app"]}`,
		"package-lock.json":  `{"name":"root","lockfileVersion":3,"requires":true,"packages":{"":{"name":"root","workspaces":["app"]},"app":{"version":"1.0.0"},"node_modules/app":{"resolved":"app","link":true}}}`,
		"turbo.json":         `{"tasks":{"build":{"outputs":["dist/**"]}}}`,
		"app/package.json":   fmt.Sprintf(`{"name":"app","version":"1.0.0","scripts":{"build":"mkdir -p dist && head -c %d /dev/urandom > dist/built"}}`, size),
		"app/index.js":       input + "\n",
		"node_modules/.keep": "",
		".gitignore":         "node_modules\ndist\n.turbo\n",
	})
	r.said = w.start(folder, []string{
		"TURBO_API=" + me.url + "/cache/" + nimbus.DefaultOrgID, "TURBO_TOKEN=" + me.token, "TURBO_TEAM=nimbus",
		"TURBO_REMOTE_CACHE_TIMEOUT=300", "TURBO_REMOTE_CACHE_UPLOAD_TIMEOUT=300", // a busy machine takes its time
		"TURBO_TELEMETRY_DISABLED=1", "TURBO_NO_UPDATE_NOTIFIER=1", "TURBO_REMOTE_CACHE_SIGNATURE_KEY=a key of the test's", "CI=1",
	}, program, "run", "build", "--no-daemon", cmp.Or(strings.Join(cached, " "), "--cache=remote:rw"))
	r.hit = strings.Contains(r.said, "cache hit")
	if !r.hit && !strings.Contains(r.said, "cache miss") && !strings.Contains(r.said, "cache bypass") {
		w.t.Errorf("it tells neither of a hit nor of a miss:\n%s", r.said)
	}
	r.built = w.hash(filepath.Join(folder, "app/dist/built"))
	return r
}

// ofTurbo are the cells of Turborepo.
func ofTurbo() map[string]cell {
	cells := map[string]cell{"prefix": {why: exactKeys}}
	for what, test := range map[string]func(*testing.T, *world){
		"save": func(t *testing.T, w *world) {
			if r := w.turbo("1", 100); r.hit {
				t.Error(r.said)
			}
			w.hasOne("", 100)
		},
		"restore": func(_ *testing.T, w *world) { w.turboHits(100, w.turbo("1", 100)) },
		"miss": func(t *testing.T, w *world) {
			w.turbo("1", 100)
			if r := w.turbo("2", 100); r.hit {
				t.Error(r.said)
			}
		},
		"conflict": func(_ *testing.T, w *world) {
			first, second := w.turbo("1", 100), w.turbo("1", 100, "--cache=remote:w") // which does not look
			w.turboHits(100, first, second)
			w.hasOne("", 100)
		},
		"quota": func(t *testing.T, w *world) {
			for range 2 {
				if r := w.turbo("1", 2*MiB); r.hit {
					t.Error(r.said)
				}
			}
			if st := w.usage(); st.Entries != 0 || st.Bytes != 0 {
				t.Errorf("the books: %+v", st)
			}
		},
		"large": func(_ *testing.T, w *world) { w.turboHits(20*MiB, w.turbo("1", 20*MiB)) },
		"concurrent": func(_ *testing.T, w *world) {
			runs := make([]turboRun, 3)
			var all sync.WaitGroup
			for n := range runs {
				all.Go(func() { runs[n] = w.turbo("1", 100) })
			}
			all.Wait()
			w.turboHits(100, runs...)
			w.hasOne("", 100)
		},
	} {
		cells[what] = cell{test: func(t *testing.T) { test(t, newWorld(t, limitsOf(what))) }}
	}
	return cells
}

// turboHits fails unless another machine has what one of some has made.
func (w *world) turboHits(size int, made ...turboRun) {
	w.t.Helper()
	again := w.turbo("1", size)
	if !again.hit || again.built == "" || !slices.ContainsFunc(made, func(r turboRun) bool { return r.built == again.built }) {
		w.t.Errorf("it has what none of %d has made\n%s", len(made), again.said)
	}
}
