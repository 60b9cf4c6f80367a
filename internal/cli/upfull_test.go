package cli

import (
	"bytes"
	"strings"
	"testing"
)

// TestUpWithoutALoginLink: a server whose database takes nothing, as on a full disk,
// says so and serves: what makes room needs it.
func TestUpWithoutALoginLink(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	s := openServer(t, data)
	if err := s.Close(); err != nil { // so that no login can be written
		t.Fatal(err)
	}
	for _, json := range []bool{false, true} {
		var out, told bytes.Buffer
		a := &app{root: &root{}, Streams: Streams{Out: &out, Err: &told}}
		a.root.JSON = json
		if err := (&upCmd{}).announce(t.Context(), a, s, data); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(told.String(), "no login link could be made") || strings.Contains(out.String()+told.String(), "/login?") || strings.Contains(out.String(), "login_url") {
			t.Errorf("json %v: %s%s", json, &out, &told)
		}
		if !strings.Contains(out.String()+told.String(), s.URL()) {
			t.Errorf("json %v: the address is not told: %s%s", json, &out, &told)
		}
	}
}
