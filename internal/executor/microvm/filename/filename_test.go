package filename_test

import (
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/filename"
)

func TestNamesFitFileSystems(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a/", 200)
	one, other := filename.Of(long+"1"), filename.Of(long+"2")
	if one == other || len(one) > 200 || strings.ContainsRune(one, '/') || one != filename.Of(long+"1") {
		t.Errorf("%q and %q", one, other)
	}
	if got := filename.Of("a/b:1"); got != "a%2Fb:1" {
		t.Errorf("got %q", got)
	}
}
