package image_test

import (
	"testing"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
)

func TestNearest(t *testing.T) {
	for _, c := range []struct {
		name  string
		names []string
		want  string
	}{
		{"x", nil, ""},
		{"x", []string{"b", "a", "a"}, "a, b"},
		{"runer", []string{"alpine", "ai-eval-runner", "runner", "ruby", "python", "node", "go"}, "runner, ruby, ai-eval-runner, alpine, go and 2 more"},
	} {
		if got := image.Nearest(c.name, c.names); got != c.want {
			t.Errorf("%q: %q, want %q", c.name, got, c.want)
		}
	}
}
