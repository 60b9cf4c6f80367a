package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// ask runs a command with --json as who has a token's file, "" for the
// administrator, and reads its answer.
func (c connected) ask(t *testing.T, tokenFile string, args ...string) map[string]any {
	t.Helper()
	if tokenFile != "" {
		args = append([]string{"--token-file", tokenFile}, args...)
	}
	code, out, errs := c.now(t, append([]string{"--json"}, args...)...)
	answer := map[string]any{}
	if err := json.Unmarshal([]byte(out), &answer); code != ExitOK || err != nil {
		t.Fatalf("%v: exit %d, %v\n%s%s", args, code, err, out, errs)
	}
	return answer
}

// at is a field deep in an answer; a number's place in a list is its path too.
func at(t *testing.T, v any, path ...any) string {
	t.Helper()
	for _, step := range path {
		switch s := step.(type) {
		case string:
			m, ok := v.(map[string]any)
			if !ok {
				t.Fatalf("no %v in %v", path, v)
			}
			v = m[s]
		case int:
			l, ok := v.([]any)
			if !ok || s >= len(l) {
				t.Fatalf("no %v in %v", path, v)
			}
			v = l[s]
		}
	}
	text, ok := v.(string)
	if !ok {
		t.Fatalf("%v is %v", path, v)
	}
	return text
}

// TestPeopleAndTokens is how an org is set up, and what its members then may do.
func TestPeopleAndTokens(t *testing.T) {
	t.Parallel()
	c := startConnected(t)
	if code, out, _ := c.now(t, "--json", "orgs"); code != ExitOK || strings.Contains(out, "0001") || strings.Contains(out, "created_at") {
		t.Errorf("the default org was made at a time that nobody knows: %s", out)
	}
	c.ask(t, "", "orgs", "create", "acme", "--owner", "acme-inc")
	c.ask(t, "", "--org", "acme", "users", "add", "ada@example.com", "--role", "admin", "--name", "Ada")
	if got := at(t, c.ask(t, "", "--org", "acme", "users"), "members", 0, "role"); got != "admin" {
		t.Errorf("she is %s", got)
	}
	account := at(t, c.ask(t, "", "--org", "acme", "service-accounts", "create", "robot", "--role", "admin"), "account", "id")
	made := c.ask(t, "", "--org", "acme", "tokens", "create", "boot", "--account", account, "--valid-for", "1h")
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(at(t, made, "secret")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}

	if got := at(t, c.ask(t, file, "orgs"), "orgs", 0, "name"); got != "acme" {
		t.Errorf("the robot is in %s", got)
	}
	c.ask(t, file, "users", "add", "bob@example.com")
	c.ask(t, file, "users", "remove", "bob@example.com")
	if members, ok := c.ask(t, file, "users")["members"].([]any); !ok || len(members) != 1 {
		t.Errorf("members: %v", members)
	}
	narrow := c.ask(t, file, "tokens", "create", "reader", "--role", "viewer", "--scope", "jobs:read")
	for _, refusal := range [][]string{
		{"hosts"}, {"orgs", "create", "more"}, {"users", "all"}, {"tokens", "--platform"}, {"--org", "default", "jobs"}, {"login"},
	} {
		if code, out, errs := c.now(t, append([]string{"--token-file", file}, refusal...)...); code == ExitOK || out != "" {
			t.Errorf("%v: exit %d %s%s", refusal, code, out, errs)
		}
	}
	c.ask(t, file, "tokens", "revoke", at(t, narrow, "token", "id"))
	c.ask(t, "", "--org", "acme", "tokens", "revoke", at(t, made, "token", "id"))
	if code, _, errs := c.now(t, "--token-file", file, "jobs"); code == ExitOK || !strings.Contains(errs, "revoked") {
		t.Errorf("a revoked token: exit %d %s", code, errs)
	}
	link := at(t, c.ask(t, "", "login", "--user", "ada@example.com"), "url")
	if !strings.HasPrefix(link, c.url+"/login?code=nbs_login_") {
		t.Errorf("her link is %s", link)
	}
	c.ask(t, "", "users", "create", "root@example.com", "--platform-admin")
	c.ask(t, "", "users", "admin", "root@example.com", "--off")
	c.ask(t, "", "users", "delete", "root@example.com")
	c.ask(t, "", "orgs", "owners", "acme")
	c.ask(t, "", "orgs", "delete", "acme")
	if code, _, _ := c.now(t, "--org", "acme", "jobs"); code == ExitOK {
		t.Error("an org that was deleted has jobs")
	}
}
