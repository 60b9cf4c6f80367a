package e2e

import (
	"strings"
	"testing"
)

// TestCache has a job save something and a later one restore it: the first in a
// microVM, which reaches nothing but its gateway, then one in another, and one
// that runs on the machine itself.
func TestCache(t *testing.T) {
	images := requireMicroVMs(t)
	m := newMachine(t)
	up := m.start(t, "", "up", "--executors", "microvm,local", "--images", images, "--listen", m.addr, "--log-level", "debug")
	m.awaitReady(t, up)
	run := func(script string, flags ...string) string {
		t.Helper()
		args := append(append([]string{"run"}, flags...), "--", "sh", "./"+script)
		stdout, stderr, code := m.nimbus(t, "testdata/cache", args...)
		if code != 0 {
			t.Fatalf("%s ended with %d: %s%s\n%s", script, code, stdout, stderr, up.stderr.String())
		}
		return stdout
	}
	saved, token, _ := strings.Cut(run("save", "--network", "none"), "\n")
	if strings.Trim(token, "*\n") != "" {
		t.Errorf("the job's log shows its token: %q", token)
	}
	for _, flags := range [][]string{{"--network", "none"}, {"--executor", "local"}} {
		if got := run("restore", flags...); got != saved+"\n" {
			t.Errorf("%v: %q, want %q", flags, got, saved)
		}
	}
	want := "healthz 404\napi/v1/me 404\nnimbus.v1.JobService/ListJobs 404\n_cache/../healthz 404\n_cache/%2e%2e/healthz 404\ntwirp/other 404\n"
	if got := run("elsewhere", "--network", "none"); got != want {
		t.Errorf("a job reaches by the door to the cache: %s", got)
	}
}
