package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/cache/near"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/scheduler"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// hostOf opens a host's door to a replica.
func hostOf(t *testing.T, r *running) (door *near.Door, url string) {
	t.Helper()
	door, err := near.Open(near.Config{Server: r.URL(), Dir: t.TempDir(), Bytes: 100 << 20, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- door.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return door, "http://" + door.Addr()
}

// tokenOfAJob is that of a job that waits, and the URL of its org's contents below
// a server.
func tokenOfAJob(t *testing.T, r *running) string {
	t.Helper()
	admin := nimbus.Principal{Kind: nimbus.PrincipalAdmin, OrgID: nimbus.DefaultOrgID, Subject: "admin"}
	job, err := r.scheduler.Submit(t.Context(), admin, scheduler.Submission{Spec: nimbus.Spec{Command: []string{"true"}}})
	if err != nil {
		t.Fatal(err)
	}
	token, err := r.cache.Token(nimbus.Assignment{JobID: job.ID, OrgID: nimbus.DefaultOrgID, Timeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// TestHostWithoutBucket stops the bucket: what a host has its jobs restore, what it
// has not is told as away at once, and once the bucket is back all is there.
func TestHostWithoutBucket(t *testing.T) {
	t.Parallel()
	objects := testenv.S3(t)
	r := replicaTest(t, ReplicaConfig{
		Database: testenv.Postgres(t), MasterKey: identity.KeySource{File: filepath.Join(t.TempDir(), "key")}, S3: bucketOf(t, objects),
	})
	token := tokenOfAJob(t, r)
	door, host := hostOf(t, r)
	here, elsewhere := strings.Repeat("on the host ", 1<<17), "elsewhere"
	at := func(server, key string) string { return server + "/cache/" + nimbus.DefaultOrgID + "/" + key }
	for url, content := range map[string]string{at(host, "here"): here, at(r.URL(), "elsewhere"): elsewhere} {
		if status, said := r.send(t, http.MethodPut, url, token, content); status != http.StatusCreated {
			t.Fatalf("%s: %d %s", url, status, said)
		}
	}
	signed := func(key string) string {
		_, found := r.ask(t, token, "GetCacheEntryDownloadURL", fmt.Sprintf(`{"key":%q,"version":"v"}`, key))
		_, path, _ := strings.Cut(fmt.Sprint(found["signed_download_url"]), "/_cache/")
		return host + "/_cache/" + path
	}
	save := func(server, key, content string) {
		_, made := r.ask(t, token, "CreateCacheEntry", fmt.Sprintf(`{"key":%q,"version":"v"}`, key))
		_, path, _ := strings.Cut(fmt.Sprint(made["signed_upload_url"]), "/_cache/")
		if status, said := r.send(t, http.MethodPut, server+"/_cache/"+path, "", content); status != http.StatusCreated {
			t.Fatalf("%d %s", status, said)
		}
		if status, said := r.send(t, http.MethodPost, server+cacheService+"FinalizeCacheEntryUpload", token, fmt.Sprintf(`{"key":%q,"version":"v","size_bytes":%d}`, key, len(content))); status != http.StatusOK || !strings.Contains(said, "true") {
			t.Fatalf("%d %s", status, said)
		}
	}
	save(host, "actions-here", here)
	save(r.URL(), "actions-elsewhere", elsewhere)

	objects.Stop()
	for range 2 {
		if status, got := r.send(t, http.MethodGet, at(host, "here"), token, ""); status != http.StatusOK || got != here {
			t.Errorf("what the host has: %d, %d bytes", status, len(got))
		}
		if status, got := r.send(t, http.MethodGet, signed("actions-here"), "", ""); status != http.StatusOK || got != here {
			t.Errorf("what the host has, by a signed URL: %d, %d bytes", status, len(got))
		}
		for _, url := range []string{at(host, "elsewhere"), signed("actions-elsewhere")} {
			if status, got := r.send(t, http.MethodGet, url, token, ""); status != http.StatusNotFound || !strings.Contains(got, "away") {
				t.Errorf("what it has not: %d %s", status, got)
			}
		}
		if status, said := r.send(t, http.MethodPut, at(host, "new"), token, "new"); status != http.StatusFailedDependency {
			t.Errorf("a save: %d %s", status, said)
		}
		if status, _ := r.send(t, http.MethodGet, at(host, "new"), token, ""); status != http.StatusNotFound {
			t.Errorf("what was not saved is there: %d", status)
		}
	}
	if err := r.objects.Check(t.Context()); err == nil {
		t.Error("the breaker takes the bucket for there")
	}
	if f := door.Figures(); f.Hits != 4 {
		t.Errorf("%+v", f)
	}

	objects.Start()
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		status, got := r.send(t, http.MethodGet, at(host, "elsewhere"), token, "")
		if status == http.StatusOK && got == elsewhere {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the bucket is back, and what is in it is answered by %d %s", status, got)
		}
	}
	if status, got := r.send(t, http.MethodGet, signed("actions-elsewhere"), "", ""); status != http.StatusOK || got != elsewhere {
		t.Errorf("once it is back: %d %s", status, got)
	}
}

// TestPeopleShareTheCacheOfJobs: by their role in the org of the path, and with
// nothing of another org's.
func TestPeopleShareTheCacheOfJobs(t *testing.T) {
	t.Parallel()
	r := replicaTest(t, ReplicaConfig{
		Database: testenv.Postgres(t), MasterKey: identity.KeySource{File: filepath.Join(t.TempDir(), "key")}, S3: bucketOf(t, testenv.S3(t)),
	})
	job := tokenOfAJob(t, r)
	root := identity.Root()
	other, err := r.identity.CreateOrg(t.Context(), root, "other", nil)
	if err != nil {
		t.Fatal(err)
	}
	// person makes a service account, and a token of it.
	person := func(orgID string, role nimbus.Role, scopes ...nimbus.Scope) string {
		t.Helper()
		in, ok := root.In(orgID)
		if !ok {
			t.Fatal("root acts in every org")
		}
		account, err := r.identity.CreateAccount(t.Context(), in, strings.ToLower(rand.Text()), role)
		if err != nil {
			t.Fatal(err)
		}
		token, _, err := r.identity.CreateToken(t.Context(), in, nimbus.NewToken{Name: "cache", AccountID: account.ID, Scopes: scopes})
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	const secret = "what a job has saved"
	at := func(org string) string { return r.URL() + "/cache/" + org + "/tools/a.o" }
	if status, said := r.send(t, http.MethodPut, at(nimbus.DefaultOrgID), job, secret); status != http.StatusCreated {
		t.Fatalf("%d %s", status, said)
	}
	for what, c := range map[string]struct {
		token, org string
		get, put   int
	}{
		"a viewer":                       {person(nimbus.DefaultOrgID, nimbus.RoleViewer), nimbus.DefaultOrgID, 200, 403},
		"a developer":                    {person(nimbus.DefaultOrgID, nimbus.RoleDeveloper), nimbus.DefaultOrgID, 200, 201},
		"a developer, by the org's name": {person(nimbus.DefaultOrgID, nimbus.RoleDeveloper, nimbus.ScopeJobsRead, nimbus.ScopeJobsWrite), nimbus.DefaultOrg, 200, 201},
		"a token that reads":             {person(nimbus.DefaultOrgID, nimbus.RoleAdmin, nimbus.ScopeJobsRead), nimbus.DefaultOrgID, 200, 403},
		"a token of something else":      {person(nimbus.DefaultOrgID, nimbus.RoleOperator, nimbus.ScopeOrgRead), nimbus.DefaultOrgID, 403, 403},
		"another org's":                  {person(other.ID, nimbus.RoleAdmin), nimbus.DefaultOrgID, 404, 404},
		"another org's, in its own":      {person(other.ID, nimbus.RoleOperator), other.ID, 404, 201},
		"a job's in another org":         {job, other.ID, 403, 403},
		"nobody's":                       {"", nimbus.DefaultOrgID, 401, 401},
		"one that is none":               {"nbs_user_x", nimbus.DefaultOrgID, 401, 401},
	} {
		if status, got := r.send(t, http.MethodGet, at(c.org), c.token, ""); status != c.get || status != http.StatusOK && strings.Contains(got, secret) {
			t.Errorf("%s gets %d %s, want %d", what, status, got, c.get)
		}
		status, said := r.send(t, http.MethodPut, at(c.org), c.token, secret)
		if status != c.put {
			t.Errorf("%s puts: %d %s, want %d", what, status, said, c.put)
		}
		if strings.HasPrefix(said, "{") { // whoever is refused is told so in one form
			t.Errorf("%s is told %s", what, said)
		}
	}
}

// TestWhoIsRevokedSavesNothing: what a person's token began to put is not kept where
// it was revoked before the end came.
func TestWhoIsRevokedSavesNothing(t *testing.T) {
	t.Parallel()
	r := replicaTest(t, ReplicaConfig{Database: testenv.Postgres(t), MasterKey: identity.KeySource{File: filepath.Join(t.TempDir(), "key")}, S3: bucketOf(t, testenv.S3(t))})
	in, ok := identity.Root().In(nimbus.DefaultOrgID)
	if !ok {
		t.Fatal("root acts in every org")
	}
	account, err := r.identity.CreateAccount(t.Context(), in, "saver", nimbus.RoleDeveloper)
	if err != nil {
		t.Fatal(err)
	}
	secret, token, err := r.identity.CreateToken(t.Context(), in, nimbus.NewToken{Name: "cache", AccountID: account.ID})
	if err != nil {
		t.Fatal(err)
	}
	body, end := io.Pipe()
	url := r.URL() + "/cache/" + nimbus.DefaultOrgID + "/k"
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url, body)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+secret)
	sent := make(chan error, 1)
	go func() {
		_, err := end.Write(make([]byte, 16<<20)) // more than lies on the way before it is known who sends it
		if err == nil {
			err = r.identity.RevokeToken(context.WithoutCancel(t.Context()), in, token.ID, "")
		}
		sent <- errors.Join(err, end.Close())
	}()
	status, said, _ := send(t, request)
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if status != http.StatusUnauthorized {
		t.Errorf("it is answered by %d %s", status, said)
	}
	if status, _ := r.send(t, http.MethodGet, url, tokenOfAJob(t, r), ""); status != http.StatusNotFound {
		t.Errorf("it is there: %d", status)
	}
}
