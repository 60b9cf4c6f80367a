package cache_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// compiler is a cache of compilers.
type compiler struct {
	// compile compiles a source on a machine that has nothing yet. One that is told to
	// does so anew, and puts the result again.
	compile func(w *world, token, source string, anew bool) compiled
	// once has it count a key that is taken as a failure, and go on.
	once bool
}

// compiled is what a cache of compilers tells of itself.
type compiled struct {
	hits, misses int
	failures     int // that its user does not see
}

// taken is how many failures it counts of so many keys that were taken.
func (cc compiler) taken(keys int) int {
	if cc.once {
		return keys
	}
	return 0
}

func (w *world) compiles(cc compiler, source string, want compiled) {
	w.t.Helper()
	if got := cc.compile(w, w.token(job()), source, false); got != want {
		w.t.Errorf("%+v, want %+v", got, want)
	}
}

const small = "int answer(void) { return 42; }\n"

// largeSource is a source with bytes in it that nothing makes smaller.
func largeSource(size int) string {
	random := rand.New(rand.NewPCG(1, 2))
	var b strings.Builder
	b.WriteString("const char data[] =\n")
	for range size / 64 {
		b.WriteByte('"')
		for range 64 {
			fmt.Fprintf(&b, "\\%03o", random.IntN(256))
		}
		b.WriteString("\"\n")
	}
	b.WriteString(";\n")
	return b.String()
}

// ofCompiler are the cells of a cache of compilers.
func ofCompiler(cc compiler) map[string]cell {
	cells := map[string]cell{"prefix": {why: exactKeys}}
	for what, test := range map[string]func(*testing.T, *world){
		"save": func(t *testing.T, w *world) {
			w.compiles(cc, small, compiled{misses: 1})
			if st := w.usage(); st.Entries == 0 || st.Bytes == 0 {
				t.Errorf("nothing is there: %+v", st)
			}
		},
		"restore": func(_ *testing.T, w *world) {
			w.compiles(cc, small, compiled{misses: 1})
			w.compiles(cc, small, compiled{hits: 1})
		},
		"miss": func(_ *testing.T, w *world) {
			w.compiles(cc, small, compiled{misses: 1})
			w.compiles(cc, "int another;\n", compiled{misses: 1})
		},
		"conflict": func(t *testing.T, w *world) {
			w.compiles(cc, small, compiled{misses: 1})
			if got := cc.compile(w, w.token(job()), small, true); got.hits != 0 || got.failures != cc.taken(1) {
				t.Errorf("the same again: %+v", got)
			}
			w.compiles(cc, small, compiled{hits: 1})
		},
		"quota": func(t *testing.T, w *world) {
			source := largeSource(2 * MiB)
			for range 2 {
				if got := cc.compile(w, w.token(job()), source, false); got.hits != 0 || got.misses != 1 || got.failures == 0 {
					t.Errorf("too much for the repository: %+v", got)
				}
			}
			if st := w.usage(); st.Bytes > MiB {
				t.Errorf("the books: %+v", st)
			}
		},
		"large": func(t *testing.T, w *world) {
			source := largeSource(3 * MiB)
			w.compiles(cc, source, compiled{misses: 1})
			w.compiles(cc, source, compiled{hits: 1})
			if st := w.usage(); st.Bytes < 3*MiB {
				t.Errorf("the books: %+v", st)
			}
		},
		"concurrent": func(t *testing.T, w *world) {
			machines := make([]compiled, 3)
			var all sync.WaitGroup
			for n := range machines {
				all.Go(func() { machines[n] = cc.compile(w, w.token(job()), small, false) })
			}
			all.Wait()
			var sum compiled
			for _, m := range machines {
				sum.hits, sum.misses, sum.failures = sum.hits+m.hits, sum.misses+m.misses, sum.failures+m.failures
			}
			if sum.hits+sum.misses != len(machines) || sum.failures != cc.taken(sum.misses-1) {
				t.Errorf("together they have %+v", sum)
			}
			w.compiles(cc, small, compiled{hits: 1})
		},
	} {
		cells[what] = cell{test: func(t *testing.T) { test(t, newWorld(t, limitsOf(what))) }}
	}
	return cells
}

// usage is what the cache has of everything.
func (w *world) usage() cache.Usage {
	w.t.Helper()
	st, err := w.cache.Stats(w.t.Context(), nimbus.DefaultOrgID)
	w.must(err)
	return st.Usage
}

// inFolder has a source in a folder of its own.
func (w *world) inFolder(source string) (folder string) {
	w.t.Helper()
	folder = w.t.TempDir()
	w.write(folder, map[string]string{"a.c": source})
	return folder
}

// ccache is ccache with one of its layouts.
func ccache(layout string) compiler {
	return compiler{compile: func(w *world, token, source string, anew bool) compiled {
		w.t.Helper()
		testenv.Require(w.t, "ccache", "gcc")
		folder, me := w.inFolder(source), w.as(job())
		env := []string{
			"CCACHE_DIR=" + w.t.TempDir(), "CCACHE_REMOTE_ONLY=true",
			"CCACHE_REMOTE_STORAGE=" + strings.Replace(me.path("ccache"), "http://", "http://job:"+token+"@", 1) + "|layout=" + layout +
				"|connect-timeout=60000|operation-timeout=60000", // a tenth of a second and ten of them, on a busy machine, are few
		}
		if layout == "bazel" { // at ac/, as Bazel's own
			env[2] = strings.Replace(env[2], "/ccache|", "|", 1)
		}
		if anew {
			env = append(env, "CCACHE_RECACHE=1")
		}
		w.start(folder, env, "ccache", "gcc", "-c", "a.c", "-o", "a.o")
		counted := map[string]int{}
		for line := range strings.Lines(w.start(folder, env, "ccache", "--print-stats")) {
			if name, value, _ := strings.Cut(strings.TrimSpace(line), "\t"); value != "" {
				counted[name], _ = strconv.Atoi(value) // all that is asked for are numbers
			}
		}
		return compiled{
			hits: counted["direct_cache_hit"] + counted["preprocessed_cache_hit"], misses: counted["cache_miss"],
			failures: counted["remote_storage_error"] + counted["remote_storage_timeout"],
		}
	}}
}

// sccacheVariable names the program. No distribution has one that speaks these
// protocols: `make test-sccache` fetches it, and `make test` goes without.
const sccacheVariable = "NIMBUS_TEST_SCCACHE"

// sccaches are sccache by GitHub's protocol, in both versions, and by URL.
func sccaches() (version2, version1, byURL compiler) {
	version2.once, version1.once = true, true
	version2.compile = func(w *world, token, source string, anew bool) compiled {
		return w.sccache(source, anew, "SCCACHE_GHA_ENABLED=on", "ACTIONS_CACHE_SERVICE_V2=true", "ACTIONS_RESULTS_URL="+w.url+"/", "ACTIONS_RUNTIME_TOKEN="+token)
	}
	version1.compile = func(w *world, token, source string, anew bool) compiled {
		return w.sccache(source, anew, "SCCACHE_GHA_ENABLED=on", "ACTIONS_CACHE_URL="+w.url+"/", "ACTIONS_RUNTIME_TOKEN="+token)
	}
	byURL.compile = func(w *world, token, source string, anew bool) compiled {
		return w.sccache(source, anew, "SCCACHE_WEBDAV_ENDPOINT="+w.url+"/cache/"+nimbus.DefaultOrgID, "SCCACHE_WEBDAV_TOKEN="+token, "SCCACHE_WEBDAV_KEY_PREFIX=sccache")
	}
	return version2, version1, byURL
}

// sccacheStats are what it tells of itself.
type sccacheStats struct {
	Stats struct {
		Hits struct {
			Counts map[string]int `json:"counts"`
		} `json:"cache_hits"`
		Misses struct {
			Counts map[string]int `json:"counts"`
		} `json:"cache_misses"`
		WriteErrors int `json:"cache_write_errors"`
		ReadErrors  int `json:"cache_read_errors"`
		Timeouts    int `json:"cache_timeouts"`
	} `json:"stats"`
}

func (s sccacheStats) compiled() (c compiled) {
	for _, of := range s.Stats.Hits.Counts {
		c.hits += of
	}
	for _, of := range s.Stats.Misses.Counts {
		c.misses += of
	}
	c.failures = s.Stats.WriteErrors + s.Stats.ReadErrors + s.Stats.Timeouts
	return c
}

// sccache compiles a source on a machine that has nothing yet.
func (w *world) sccache(source string, anew bool, env ...string) compiled {
	w.t.Helper()
	program := os.Getenv(sccacheVariable)
	testenv.Require(w.t, program, "gcc")
	folder := w.inFolder(source)
	own, err := os.MkdirTemp("", "scc") // a socket's path is short
	w.must(err)
	defer os.RemoveAll(own)
	socket := filepath.Join(own, "s")
	env = append(env, "SCCACHE_SERVER_UDS="+socket, "SCCACHE_DIR="+filepath.Join(own, "d"))
	if anew {
		env = append(env, "SCCACHE_RECACHE=1")
	}
	log, err := os.Create(filepath.Join(own, "log"))
	w.must(err)
	defer log.Close()
	server := exec.CommandContext(w.t.Context(), program) // whose clients start one that nobody ends
	server.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + own, "SCCACHE_START_SERVER=1", "SCCACHE_NO_DAEMON=1", "SCCACHE_LOG=warn"}, env...)
	server.Dir, server.Stdout, server.Stderr = folder, log, log
	w.must(server.Start())
	defer func() {
		_ = server.Process.Kill() // it has nothing of its own
		_ = server.Wait()
		if said, err := os.ReadFile(log.Name()); err == nil && w.t.Failed() {
			w.t.Logf("it says:\n%s", said)
		}
	}()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		if time.Now().After(deadline) {
			said, _ := os.ReadFile(log.Name())
			w.t.Fatalf("it does not start:\n%s", said)
		}
	}
	w.start(folder, env, program, "gcc", "-c", "a.c", "-o", "a.o")
	var s sccacheStats
	w.must(json.Unmarshal([]byte(w.start(folder, env, program, "--show-stats", "--stats-format", "json")), &s))
	return s.compiled()
}
