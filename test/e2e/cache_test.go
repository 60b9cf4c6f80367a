package e2e

import (
	"net/http"
	"strings"
	"testing"
)

// TestCache has a job save something and a later one restore it: the first in a
// microVM, which reaches nothing but its gateway, then one in another, and one
// that runs on the machine itself. So it is with an image.
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
	said := strings.Split(run("save", "--network", "none"), "\n")
	if len(said) < 3 || strings.Trim(said[1], "*") != "" {
		t.Fatalf("the job's log, which must not show its token: %q", said)
	}
	saved := said[0]
	if status := askCache(t, m.addr, said[2]); status != http.StatusUnauthorized {
		t.Errorf("the token of a job that has ended: %d", status)
	}
	for _, flags := range [][]string{{"--network", "none"}, {"--executor", "local"}} {
		if got := run("restore", flags...); got != saved+"\n" {
			t.Errorf("%v: %q, want %q", flags, got, saved)
		}
	}
	// The same door leads to the images of the org, which the job is known to.
	m.must(t, "registry", "rules", "team/app", "--push-from", "-")
	pushed := strings.Split(run("images", "--network", "none"), "\n")
	if len(pushed) < 3 || pushed[0] != "403" || strings.Trim(pushed[1], "*") != "" || !strings.HasPrefix(pushed[2], "sha256:") {
		t.Fatalf("a job pushes an image: %q", pushed)
	}
	for _, flags := range [][]string{{"--network", "none"}, {"--executor", "local"}} {
		if got := run("images-again", flags...); got != pushed[2]+"\n" {
			t.Errorf("%v pulls %q, want %q", flags, got, pushed[2])
		}
	}
	want := "healthz 404\napi/v1/me 404\nnimbus.v1.JobService/ListJobs 404\n_cache/../healthz 404\n_cache/%2e%2e/healthz 404\ntwirp/other 404\n"
	if got := run("elsewhere", "--network", "none"); got != want {
		t.Errorf("a job reaches by the door to the cache: %s", got)
	}
}

// askCache looks something up with a token that a job wrote down.
func askCache(t *testing.T, addr, turned string) (status int) {
	t.Helper()
	token := strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z':
			return 'a' + (r-'a'+13)%26
		case 'A' <= r && r <= 'Z':
			return 'A' + (r-'A'+13)%26
		}
		return r
	}, turned)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+addr+"/twirp/github.actions.results.api.v1.CacheService/GetCacheEntryDownloadURL",
		strings.NewReader(`{"key":"tools-1","version":"v"}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(token))
	r.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	return answer.StatusCode
}
