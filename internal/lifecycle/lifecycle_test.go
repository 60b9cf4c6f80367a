package lifecycle_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nimbus-ci/nimbus/internal/lifecycle"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// recorder makes services that write what happens to them into one list.
type recorder struct{ events []string }

func (r *recorder) service(name string) lifecycle.Service {
	return lifecycle.Func(name, func(ctx context.Context, ready func()) error {
		r.events = append(r.events, "start "+name)
		ready()
		<-ctx.Done()
		r.events = append(r.events, "stop "+name)
		return nil
	})
}

func TestGroupStopsInReverseOrder(t *testing.T) {
	t.Parallel()
	var r recorder
	ctx, cancel := context.WithCancel(t.Context())
	g := lifecycle.Group{Log: slog.New(slog.DiscardHandler), Services: []lifecycle.Service{r.service("store"), r.service("http")}}
	if err := g.Run(ctx, cancel); err != nil {
		t.Fatal(err)
	}
	want := []string{"start store", "start http", "stop http", "stop store"}
	if diff := cmp.Diff(want, r.events); diff != "" {
		t.Error(diff)
	}
}

func TestGroupEndsWithTheFirstFailure(t *testing.T) {
	t.Parallel()
	broken := errors.New("disk is gone")
	for name, failing := range map[string]lifecycle.Service{
		"before ready": lifecycle.Func("blobs", func(context.Context, func()) error { return broken }),
		"after ready": lifecycle.Func("blobs", func(_ context.Context, ready func()) error {
			ready()
			return broken
		}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var r recorder
			g := lifecycle.Group{Log: slog.New(slog.DiscardHandler), Services: []lifecycle.Service{r.service("store"), failing}}
			if err := g.Run(t.Context(), func() {}); !errors.Is(err, broken) {
				t.Fatalf("got %v", err)
			}
			if diff := cmp.Diff([]string{"start store", "stop store"}, r.events); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestGroupTakesASilentEndForAFailure(t *testing.T) {
	t.Parallel()
	g := lifecycle.Group{Log: slog.New(slog.DiscardHandler), Services: []lifecycle.Service{
		lifecycle.Func("sweeper", func(_ context.Context, ready func()) error { ready(); return nil }),
	}}
	if err := g.Run(t.Context(), func() {}); err == nil {
		t.Fatal("a service that ended by itself must end the process with an error")
	}
}
