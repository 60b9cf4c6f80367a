package cli

import (
	"reflect"
	"testing"

	"github.com/nimbus-ci/nimbus"
)

// TestMirrorChangesWhatIsGiven: what no flag names stays what it is.
func TestMirrorChangesWhatIsGiven(t *testing.T) {
	t.Parallel()
	before := nimbus.ImageMirror{Name: "docker.io", Upstream: "https://hub.corp", Username: "acme", Allow: []string{"library/*"}}
	change := func(upstream, username, password string, allow ...string) nimbus.ImageMirrorChange {
		return nimbus.ImageMirrorChange{Name: "docker.io", Upstream: upstream, Username: username, Password: password, Allow: allow}
	}
	for name, c := range map[string]struct {
		cmd      registryMirrorAddCmd
		password string
		want     nimbus.ImageMirrorChange
	}{
		"patterns":    {registryMirrorAddCmd{Allow: []string{"a/*"}}, "", change("https://hub.corp", "acme", "", "a/*")},
		"one more":    {registryMirrorAddCmd{Also: []string{"a/*", "library/*"}}, "", change("https://hub.corp", "acme", "", "library/*", "a/*")},
		"login":       {registryMirrorAddCmd{Username: "other"}, "secret", change("https://hub.corp", "other", "secret", "library/*")},
		"password":    {registryMirrorAddCmd{}, "secret", change("https://hub.corp", "acme", "secret", "library/*")},
		"no login":    {registryMirrorAddCmd{NoLogin: true}, "", change("https://hub.corp", "", "", "library/*")},
		"upstream":    {registryMirrorAddCmd{Upstream: "https://new.corp", NoLogin: true}, "", change("https://new.corp", "", "", "library/*")},
		"no patterns": {registryMirrorAddCmd{AllowNothing: true}, "", change("https://hub.corp", "acme", "")},
	} {
		c.cmd.Name = "docker.io"
		got, err := c.cmd.of(before, c.password)
		if len(got.Allow) == 0 {
			got.Allow = nil
		}
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: the change is %+v, %v", name, got, err)
		}
	}
	for _, cmd := range []registryMirrorAddCmd{{Allow: []string{""}}, {Also: []string{""}}} {
		if got, err := cmd.of(before, ""); err == nil {
			t.Errorf("an empty pattern is %+v", got)
		}
	}
	if len(before.Allow) != 1 || before.Allow[0] != "library/*" {
		t.Errorf("what was there is changed: %v", before.Allow)
	}
}
