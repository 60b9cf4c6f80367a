package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

const cacheService = "/twirp/github.actions.results.api.v1.CacheService/"

// ask makes a call to the cache of a replica.
func (r *running) ask(t *testing.T, token, method, body string) (status int, answer map[string]any) {
	t.Helper()
	status, raw := r.send(t, http.MethodPost, r.URL()+cacheService+method, token, body)
	if err := json.Unmarshal([]byte(raw), &answer); err != nil {
		t.Fatalf("%s answers %d %q: %v", method, status, raw, err)
	}
	return status, answer
}

func (r *running) send(t *testing.T, method, url, token, body string) (status int, answer string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-Ms-Blob-Type", "BlockBlob")
	status, answer, _ = send(t, request)
	return status, answer
}

// TestReplicasShareACache saves through one replica and restores through another,
// by the token of a job, for as long as that has not ended.
func TestReplicasShareACache(t *testing.T) {
	t.Parallel()
	objects := testenv.S3(t)
	cfg := ReplicaConfig{
		Database: testenv.Postgres(t), MasterKey: identity.KeySource{File: filepath.Join(t.TempDir(), "key")}, S3: bucketOf(t, objects),
	}
	one, two := replicaTest(t, cfg), replicaTest(t, cfg)
	admin := nimbus.Principal{Kind: nimbus.PrincipalAdmin, OrgID: nimbus.DefaultOrgID, Subject: "admin"}
	job, err := one.scheduler.Submit(t.Context(), admin, scheduler.Submission{Spec: nimbus.Spec{Command: []string{"true"}}})
	if err != nil {
		t.Fatal(err)
	}
	token, err := one.cache.Token(nimbus.Assignment{JobID: job.ID, OrgID: nimbus.DefaultOrgID, Timeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	content := string(bytes.Repeat([]byte("saved "), 1<<16))
	_, made := one.ask(t, token, "CreateCacheEntry", `{"key":"tools","version":"v"}`)
	if status, said := one.send(t, http.MethodPut, fmt.Sprint(made["signed_upload_url"]), "", content); status != http.StatusCreated {
		t.Fatalf("the upload is answered by %d %s", status, said)
	}
	if status, done := two.ask(t, token, "FinalizeCacheEntryUpload", fmt.Sprintf(`{"key":"tools","version":"v","size_bytes":"%d"}`, len(content))); done["ok"] != true {
		t.Fatalf("%d %v", status, done)
	}
	const find = `{"key":"tools","version":"v"}`
	_, found := two.ask(t, token, "GetCacheEntryDownloadURL", find)
	if status, got := two.send(t, http.MethodGet, fmt.Sprint(found["signed_download_url"]), "", ""); status != http.StatusOK || got != content {
		t.Errorf("the other replica answers %d with %d bytes, %d were saved", status, len(got), len(content))
	}
	_, half := one.ask(t, token, "CreateCacheEntry", `{"key":"half","version":"v"}`)
	put := fmt.Sprint(half["signed_upload_url"])
	if status, said := two.send(t, http.MethodPut, put+"&comp=block&blockid=YQ==", "", "half"); status != http.StatusCreated {
		t.Fatalf("%d %s", status, said)
	}
	if _, err := one.scheduler.Cancel(t.Context(), admin, nimbus.DefaultOrgID, job.ID); err != nil {
		t.Fatal(err)
	}
	if status, said := two.ask(t, token, "GetCacheEntryDownloadURL", find); status != http.StatusUnauthorized {
		t.Errorf("the job has ended, and its token is answered by %d %v", status, said)
	}
	for what, url := range map[string]string{http.MethodPut: put, http.MethodGet: fmt.Sprint(found["signed_download_url"])} {
		if status, said := two.send(t, what, url, "", "more"); status != http.StatusForbidden || !strings.Contains(said, "the job has ended") {
			t.Errorf("the job has ended, and %s by its URL is answered by %d %s", what, status, said)
		}
	}
	if err := one.cache.service.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if status, next := one.ask(t, tokenOfAJob(t, two), "CreateCacheEntry", `{"key":"half","version":"v"}`); next["ok"] != true {
		t.Errorf("what an ended job began to save is not free: %d %v", status, next)
	}
	if token, err := one.cache.Token(nimbus.Assignment{JobID: job.ID, OrgID: nimbus.DefaultOrgID, Source: nimbus.SourceGitHub}); token != "" || err != nil {
		t.Errorf("a job of GitHub's, of which nothing is proved, has a token: %q, %v", token, err)
	}
}

// TestReplicaWithoutABucket has no cache, and says so.
func TestReplicaWithoutABucket(t *testing.T) {
	t.Parallel()
	r := replicaTest(t, ReplicaConfig{Database: testenv.Postgres(t), MasterKey: identity.KeySource{File: filepath.Join(t.TempDir(), "key")}})
	if status, said := r.ask(t, "token", "CreateCacheEntry", "{}"); status != http.StatusNotFound || !strings.Contains(fmt.Sprint(said), "there is no cache here") {
		t.Errorf("%d %v", status, said)
	}
}
