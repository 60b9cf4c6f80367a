package nimbus

import (
	"strings"
	"testing"
)

func TestValidRepo(t *testing.T) {
	t.Parallel()
	for name, valid := range map[string]bool{
		"octo/hello": true, "Octo-Org/Hello.World_2": true, "name_corp/x": true, "a/.github": true,
		"": false, "octo": false, "octo/": false, "/hello": false, "octo/hello/world": false, "octo/he llo": false,
		"octo/*": false, "octo/hello\n": false, "octo/..": false, "öcto/hello": false, "octo.x/hello": false,
		strings.Repeat("a", 101) + "/b": false, "a/" + strings.Repeat("b", 101): false,
	} {
		if got := ValidRepo(name); got != valid {
			t.Errorf("%q: %v", name, got)
		}
	}
}
