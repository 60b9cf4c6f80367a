package scheduler

import (
	"context"
	"testing"
)

// TestGatheredIsNobodys: a leader's term in the context of one operation must
// not be that of others, which would be fenced with it.
func TestGatheredIsNobodys(t *testing.T) {
	t.Parallel()
	type key struct{}
	g := &gatherer{run: func(ctx context.Context, ops []*operation) {
		for _, op := range ops {
			op.err = op.do(ctx, nil)
		}
	}}
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "a term"))
	defer cancel()
	err := g.do(ctx, Keys{}, func(ctx context.Context, _ *unit) error {
		if got := ctx.Value(key{}); got != nil {
			t.Errorf("it is done in %v", got)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
