package cache_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/cache"
	"github.com/nimbus-ci/nimbus/internal/cache/actions"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// withArtifacts is a server that keeps artifacts.
func withArtifacts(t testing.TB, limits cache.Limits) *world {
	t.Helper()
	var service actions.Artifacts
	w := newWorld(t, limits, func(cfg *actions.Config) {
		service, _ = cfg.Cache.(actions.Artifacts)
		cfg.Artifacts = service
	})
	return w
}

// ofRun is the token of a job of a run.
func (w *world) ofRun(c cache.Caller, run string) string {
	w.t.Helper()
	token, err := w.keys.Mint(actions.Grant{Caller: c, RunID: run, NotBefore: time.Now().Add(-time.Minute), ExpiresAt: time.Now().Add(time.Hour)})
	w.must(err)
	return token
}

// said is what @actions/artifact came to.
type said struct {
	Result struct {
		ID        int64 `json:"id"`
		Size      int64 `json:"size"`
		Artifacts []struct {
			Name   string `json:"name"`
			Digest string `json:"digest"`
		} `json:"artifacts"`
	} `json:"result"`
	Error string `json:"error"`
}

// artifact calls @actions/artifact as a job of a run does.
func (w *world) artifact(folder, token string, args ...string) (out said) {
	w.t.Helper()
	drive, err := filepath.Abs("clients/artifact.mjs")
	w.must(err)
	cmd := exec.CommandContext(w.t.Context(), "node", append([]string{drive}, args...)...)
	cmd.Dir = folder
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + w.t.TempDir(), "RUNNER_TEMP=" + w.t.TempDir(), "GITHUB_WORKSPACE=" + folder, "GITHUB_SERVER_URL=https://github.com",
		"ACTIONS_RUNTIME_TOKEN=" + token, "ACTIONS_RESULTS_URL=" + w.url + "/",
	}
	raw, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("@actions/artifact: %v\n%s", err, raw)
	}
	lines := bytes.Split(bytes.TrimSpace(raw), []byte("\n"))
	if err := json.Unmarshal(lines[len(lines)-1], &out); err != nil {
		w.t.Fatalf("%v\n%s", err, raw)
	}
	return out
}

// TestArtifacts has a job upload by the real client, and others of its run, and of
// others, look for it.
func TestArtifacts(t *testing.T) {
	modules, err := filepath.Abs("clients/node_modules/@actions/artifact")
	if err != nil {
		t.Fatal(err)
	}
	testenv.Require(t, "node", modules)
	t.Parallel()
	w := withArtifacts(t, cache.Limits{})
	other := w.otherOrg()
	first, second := w.ofRun(job(), "run-1"), w.ofRun(job(func(c *cache.Caller) { c.JobID = "job_2" }), "run-1")
	file, hash := w.file(20*MiB + 1)
	folder := filepath.Dir(file)
	up := w.artifact(folder, first, "upload", "the report", filepath.Base(file))
	if up.Error != "" || up.Result.ID == 0 || up.Result.Size == 0 {
		t.Fatalf("upload: %+v", up)
	}
	if again := w.artifact(folder, second, "upload", "the report", filepath.Base(file)); !strings.Contains(again.Error, "409") {
		t.Errorf("the name again: %+v", again)
	}
	list := w.artifact(folder, second, "list")
	if len(list.Result.Artifacts) != 1 || list.Result.Artifacts[0].Name != "the report" || list.Result.Artifacts[0].Digest == "" {
		t.Fatalf("another job of the run lists %+v", list)
	}
	into := t.TempDir()
	if down := w.artifact(folder, second, "download", "the report", into); down.Error != "" || w.hash(filepath.Join(into, "content")) != hash {
		t.Errorf("another job of the run downloads %+v", down)
	}
	for what, token := range map[string]string{
		"another run":        w.ofRun(job(), "run-2"),
		"another repository": w.ofRun(job(func(c *cache.Caller) { c.Repo = "acme/other" }), "run-1"),
		"another org":        w.ofRun(job(func(c *cache.Caller) { c.OrgID = other }), "run-1"),
	} {
		if got := w.artifact(folder, token, "list"); got.Error != "" || len(got.Result.Artifacts) != 0 {
			t.Errorf("%s lists %+v", what, got)
		}
		if got := w.artifact(folder, token, "delete", "the report"); got.Error == "" {
			t.Errorf("%s deletes it", what)
		}
	}
	if got := w.artifact(folder, second, "delete", "the report"); got.Error != "" || got.Result.ID != up.Result.ID {
		t.Errorf("delete: %+v", got)
	}
	if list := w.artifact(folder, first, "list"); len(list.Result.Artifacts) != 0 {
		t.Errorf("it is still there: %+v", list)
	}
	if up := w.artifact(folder, first, "upload", "the report", filepath.Base(file)); up.Error != "" {
		t.Errorf("once more: %+v", up)
	}
}

// artifactCall speaks the protocol by hand.
func (r raw) artifactCall(method, run string, fields map[string]any) answer {
	r.t.Helper()
	fields["workflow_run_backend_id"], fields["workflow_job_run_backend_id"] = run, "job_1"
	body, err := json.Marshal(fields)
	r.must(err)
	return r.send("POST", r.url+"/twirp/github.actions.results.api.v1.ArtifactService/"+method, bytes.NewReader(body),
		"Authorization", "Bearer "+r.token, "Content-Type", "application/json")
}

// TestArtifactsAreARuns: names, sizes and hashes are checked, and a run is the one of
// the token.
func TestArtifactsAreARuns(t *testing.T) {
	t.Parallel()
	w := withArtifacts(t, cache.Limits{Repo: 100_000})
	me := raw{w, w.ofRun(job(), "run-1")}
	const content = "an artifact's content"
	sum := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(content)))
	for _, name := range []string{"", ".", "..", "a/b", `a\b`, "a\"b", "a:b", "a<b", "a>b", "a|b", "a*b", "a?b", "a\nb", "a\rb", strings.Repeat("n", 257)} {
		w.refused(fmt.Sprintf("the name %.20q", name), me.artifactCall("CreateArtifact", "run-1", map[string]any{"name": name, "version": 7}), http.StatusBadRequest)
	}
	for _, method := range []string{"CreateArtifact", "FinalizeArtifact", "ListArtifacts", "GetSignedArtifactURL", "DeleteArtifact"} {
		w.refused(method+" of another run", me.artifactCall(method, "run-2", map[string]any{"name": "a"}), http.StatusNotFound)
		w.refused(method+" of a job without a run", w.as(job()).artifactCall(method, "", map[string]any{"name": "a"}), http.StatusForbidden)
		w.refused(method+" by nobody", raw{w, "x"}.artifactCall(method, "run-1", map[string]any{"name": "a"}), http.StatusUnauthorized)
	}
	begin := func(name string, more ...any) string {
		t.Helper()
		fields := map[string]any{"name": name, "version": 7}
		for i := 0; i < len(more); i += 2 {
			fields[fmt.Sprint(more[i])] = more[i+1]
		}
		a := me.artifactCall("CreateArtifact", "run-1", fields)
		if !a.ok() {
			t.Fatalf("create %s: %d %s", name, a.status, a.body)
		}
		if a := me.putBlob(a.text("signed_upload_url"), content); a.status != http.StatusCreated {
			t.Fatalf("upload %s: %d %s", name, a.status, a.body)
		}
		return a.text("signed_upload_url")
	}
	begin("lies")
	w.refused("a size that lies", me.artifactCall("FinalizeArtifact", "run-1", map[string]any{"name": "lies", "size": "5", "hash": sum}), http.StatusBadRequest)
	w.refused("no hash of SHA-256", me.artifactCall("FinalizeArtifact", "run-1", map[string]any{"name": "lies", "size": fmt.Sprint(len(content)), "hash": "md5:0"}), http.StatusBadRequest)
	w.refused("a hash that lies", me.artifactCall("FinalizeArtifact", "run-1",
		map[string]any{"name": "lies", "size": fmt.Sprint(len(content)), "hash": "sha256:" + strings.Repeat("0", 64)}), http.StatusBadRequest)
	if a := me.artifactCall("ListArtifacts", "run-1", map[string]any{}); a.status != http.StatusOK || strings.Contains(a.body, "lies") {
		t.Errorf("what lied is listed: %d %s", a.status, a.body)
	}
	begin("page.html", "mime_type", "text/html")
	finish := func(name string) answer {
		return me.artifactCall("FinalizeArtifact", "run-1", map[string]any{"name": name, "size": fmt.Sprint(len(content)), "hash": sum})
	}
	first, second := finish("page.html"), finish("page.html")
	if !first.ok() || !second.ok() || first.text("artifact_id") == "" || first.text("artifact_id") != second.text("artifact_id") {
		t.Fatalf("finalize, twice: %s, %s", first.body, second.body)
	}
	signed := me.artifactCall("GetSignedArtifactURL", "run-1", map[string]any{"name": "page.html"}).text("signed_url")
	got := raw{w, ""}.send("GET", signed, nil)
	if got.status != http.StatusOK || got.body != content || got.header.Get("Content-Type") != "text/html" ||
		!strings.Contains(got.header.Get("Content-Disposition"), "page.html") || !strings.HasPrefix(got.header.Get("Content-Disposition"), "attachment") ||
		!strings.Contains(got.header.Get("Content-Security-Policy"), "sandbox") {
		t.Errorf("%d %v", got.status, got.header)
	}
	nobody := raw{w, ""}
	w.refused("as an entry of the cache", nobody.send("GET", strings.Replace(signed, "/artifacts/", "/entries/", 1), nil), http.StatusForbidden)
	w.refused("with another bit", nobody.send("GET", strings.Replace(signed, "sig=", "sig=A", 1), nil), http.StatusForbidden)
	// No cache look-up finds it, whatever key and scope it tries.
	if got, ok := w.as(job(func(c *cache.Caller) { c.Read = []string{"artifacts/run-1", mainRef} })).content("page.html", "page"); ok {
		t.Errorf("as a cache it reads %q", got)
	}
	// It stays until it expires, be the cache full or not; then it goes.
	filler := w.as(job())
	for i := range 20 {
		filler.keep(fmt.Sprintf("filler-%d", i), strings.Repeat("x", 20_000))
		w.later(time.Duration(i+1) * 6 * time.Minute)
	}
	if a := (raw{w, ""}).send("GET", signed, nil); a.body != content {
		t.Errorf("a full cache has it go: %d %s", a.status, a.body)
	}
	w.later(29 * 24 * time.Hour)
	w.must(w.cache.Sweep(t.Context()))
	list := func() string { return me.artifactCall("ListArtifacts", "run-1", map[string]any{}).body }
	if !strings.Contains(list(), "page.html") {
		t.Errorf("it went before its time: %s", list())
	}
	w.later(31 * 24 * time.Hour)
	w.must(w.cache.Sweep(t.Context()))
	if strings.Contains(list(), "page.html") {
		t.Errorf("it has not expired: %s", list())
	}
}

// TestArtifactsAreOff: where nobody asked for them there are none.
func TestArtifactsAreOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t, cache.Limits{})
	w.refused("an artifact", raw{w, w.ofRun(job(), "run-1")}.artifactCall("CreateArtifact", "run-1", map[string]any{"name": "a", "version": 7}), http.StatusNotFound)
}
