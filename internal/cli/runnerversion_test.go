package cli

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/api/gen/nimbus/v1/nimbusv1connect"
)

// join has a host join whose image has a version of GitHub's runner.
func (c connected) join(t *testing.T, name, runner string) {
	t.Helper()
	code, token, errs := c.now(t, "hosts", "token")
	if code != ExitOK {
		t.Fatal(errs)
	}
	_, err := nimbusv1connect.NewAgentServiceClient(http.DefaultClient, c.url).Join(t.Context(), connect.NewRequest(&nimbusv1.JoinRequest{
		JoinToken: strings.TrimSpace(token), Name: name, Version: "v1",
		Inventory: &nimbusv1.Inventory{Arch: "amd64", Cpus: 2, MemoryMib: 2048, RunnerVersion: runner},
	}))
	if err != nil {
		t.Fatal(err)
	}
}

// TestOldRunnersAreTold: before GitHub refuses them and after, by doctor and
// with the hosts.
func TestOldRunnersAreTold(t *testing.T) {
	t.Parallel()
	c := startConnected(t)
	c.connectApp(t)
	c.hear(t)
	now := time.Now()
	c.double.SetRunnerReleases(
		nimbus.RunnerRelease{Version: "2.338.0", PublishedAt: now.Add(-12*24*time.Hour - time.Hour)},
		nimbus.RunnerRelease{Version: "2.337.0", PublishedAt: now.Add(-31 * 24 * time.Hour)},
		nimbus.RunnerRelease{Version: "2.336.0", PublishedAt: now.Add(-60 * 24 * time.Hour)},
	)
	c.join(t, "fresh", "2.338.0")
	expect := func(status string, code int, says string) {
		t.Helper()
		got, out, errs := c.now(t, "doctor", "github")
		if !regexp.MustCompile(`(?m)^`+status+` +runner +`+says+`$`).MatchString(out) || got != code {
			t.Errorf("it ends with %d and says nothing like %q:\n%s%s", got, says, out, errs)
		}
	}
	expect("ok", ExitOK, `hosts have the latest, 2\.338\.0`)
	c.join(t, "behind", "2.337.0")
	expect("warn", ExitOK, `the latest is 2\.338\.0; 2\.337\.0 \(behind\): a newer one is out since 12 days, and GitHub gives it no jobs in 17 days, from [0-9-]{10} on`)
	c.join(t, "refused", "2.336.0")
	expect("fail", ExitFailure, `the latest is 2\.338\.0; 2\.336\.0 \(refused\): a newer one is out since 31 days, and GitHub gives it no jobs any more; 2\.337\.0 \(behind\): .*`)
	c.join(t, "without", "")
	code, out, errs := c.now(t, "hosts")
	for name, pattern := range map[string]string{
		"fresh": `(?m)fresh .* 2\.338\.0 `, "behind": `(?m)behind .* 2\.337\.0 `, "without": `(?m)without .* - `,
	} {
		if !regexp.MustCompile(pattern).MatchString(out) {
			t.Errorf("hosts (%d) don't tell of %s:\n%s", code, name, out)
		}
	}
	for _, want := range []string{"behind has GitHub's runner 2.337.0: a newer one is out since 12 days", "refused has GitHub's runner 2.336.0: a newer one is out since 31 days, and GitHub gives it no jobs any more"} {
		if !strings.Contains(errs, want) {
			t.Errorf("hosts say nothing like %q:\n%s", want, errs)
		}
	}
	if strings.Contains(errs, "fresh") || strings.Contains(errs, "without") {
		t.Errorf("hosts complain of what is fine:\n%s", errs)
	}
	code, out, _ = c.now(t, "hosts", "--json")
	if code != ExitOK || !regexp.MustCompile(`"version":"2\.337\.0","latest":"2\.338\.0","newer_since":"[^"]+","refused_at":"`).MatchString(out) {
		t.Errorf("hosts --json (%d):\n%s", code, out)
	}
}

// TestBuildingAnotherRunner: a version comes with its digest, or not at all.
func TestBuildingAnotherRunner(t *testing.T) {
	t.Parallel()
	digest := strings.Repeat("0f", 32)
	for name, tt := range map[string]struct{ version, digest, says string }{
		"the recipe's":   {},
		"another":        {version: "v2.338.0", digest: strings.ToUpper(digest)},
		"no version":     {version: "latest", digest: digest, says: "no version"},
		"a path":         {version: "../../evil", digest: digest, says: "no version"},
		"no digest":      {version: "2.338.0", digest: "sha256:" + digest, says: "no SHA-256"},
		"digest alone":   {digest: digest, says: "no version"},
		"version alone":  {version: "2.338.0", says: "no SHA-256"},
		"a short digest": {version: "2.338.0", digest: digest[1:], says: "no SHA-256"},
	} {
		r, err := (&imagesBuildCmd{RunnerVersion: tt.version, RunnerSHA256: tt.digest}).release()
		switch {
		case tt.says != "":
			if err == nil || !strings.Contains(err.Error(), tt.says) || nimbus.ErrorHint(err) == "" {
				t.Errorf("%s: %v (%s)", name, err, nimbus.ErrorHint(err))
			}
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case tt.version != "" && (r.Version != "2.338.0" || r.SHA256 != digest || !strings.HasSuffix(r.URL, "/v2.338.0/actions-runner-linux-x64-2.338.0.tar.gz") || len(r.Packages) == 0):
			t.Errorf("%s: %+v", name, r)
		}
	}
}
