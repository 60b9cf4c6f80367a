package nimbus

import "testing"

func TestFitsImage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"library/alpine", "library/alpine", true}, {"library/alpine", "library/alpine2", false}, {"library/*", "library/alpine", true},
		{"library/*", "other/library/x", false}, {"*", "a/b/c", true}, {"*/app", "acme/x/app", true}, {"*/app", "acme/x/apple", false},
		{"a*b*c", "abbc", true}, {"a*b*c", "acb", false}, {"", "", true}, {"", "x", false}, {"a*a", "a", false}, {"a**a", "aa", true},
	} {
		if got := FitsImage(c.pattern, c.name); got != c.want {
			t.Errorf("%q and %q: %v", c.pattern, c.name, got)
		}
	}
}
