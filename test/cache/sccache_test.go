//go:build sccache

package cache_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// sccacheVariable names the program. No distribution has one that speaks these
// protocols: this file is of `make test-sccache`, which fetches it, and not of `make
// test`.
const sccacheVariable = "NIMBUS_TEST_SCCACHE"

// TestSccache compiles on one machine, and on another without compiling, by GitHub's
// cache service in both of its versions and by URL; on one without a token as if
// there were no cache.
func TestSccache(t *testing.T) {
	program := os.Getenv(sccacheVariable)
	testenv.Require(t, program, "gcc")
	for name, env := range map[string]func(w *world, token string) []string{
		"version 2": func(w *world, token string) []string {
			return []string{"SCCACHE_GHA_ENABLED=on", "ACTIONS_CACHE_SERVICE_V2=true", "ACTIONS_RESULTS_URL=" + w.url + "/", "ACTIONS_RUNTIME_TOKEN=" + token}
		},
		"version 1": func(w *world, token string) []string {
			return []string{"SCCACHE_GHA_ENABLED=on", "ACTIONS_CACHE_URL=" + w.url + "/", "ACTIONS_RUNTIME_TOKEN=" + token}
		},
		"by URL": func(w *world, token string) []string {
			return []string{"SCCACHE_WEBDAV_ENDPOINT=" + w.url + "/cache/" + nimbus.DefaultOrgID, "SCCACHE_WEBDAV_TOKEN=" + token, "SCCACHE_WEBDAV_KEY_PREFIX=sccache"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, w *world) {
				folder := t.TempDir()
				w.write(folder, map[string]string{"a.c": "int answer(void) { return 42; }\n"})
				if s := w.sccache(program, folder, env(w, w.token(job()))); s.hits() != 0 || s.errors() != 0 || s.Stats.Writes != 1 {
					t.Errorf("the first machine: %+v", s)
				}
				if s := w.sccache(program, folder, env(w, w.token(job()))); s.hits() != 1 || s.errors() != 0 || s.Stats.Writes != 0 {
					t.Errorf("the second machine: %+v", s)
				}
			})
		})
	}
}

// sccacheStats are what it tells of itself.
type sccacheStats struct {
	Location string `json:"cache_location"`
	Stats    struct {
		Hits struct {
			Counts map[string]int `json:"counts"`
		} `json:"cache_hits"`
		Writes      int `json:"cache_writes"`
		WriteErrors int `json:"cache_write_errors"`
		ReadErrors  int `json:"cache_read_errors"`
		Timeouts    int `json:"cache_timeouts"`
	} `json:"stats"`
}

func (s sccacheStats) hits() (n int) {
	for _, of := range s.Stats.Hits.Counts {
		n += of
	}
	return n
}

// errors are those that its user is not told of.
func (s sccacheStats) errors() int {
	return s.Stats.WriteErrors + s.Stats.ReadErrors + s.Stats.Timeouts
}

// sccache compiles a file on a machine that has nothing yet.
func (w *world) sccache(program, folder string, env []string) (s sccacheStats) {
	w.t.Helper()
	own, err := os.MkdirTemp("", "scc") // a socket's path is short
	w.must(err)
	defer os.RemoveAll(own)
	socket := filepath.Join(own, "s")
	env = append(env, "SCCACHE_SERVER_UDS="+socket, "SCCACHE_DIR="+filepath.Join(own, "d"))
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
	stats := w.start(folder, env, program, "--show-stats", "--stats-format", "json")
	w.must(json.Unmarshal([]byte(stats), &s))
	return s
}
