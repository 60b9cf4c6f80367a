package agent

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/api/gen/nimbus/v1/nimbusv1connect"
	"github.com/nimbus-ci/nimbus/internal/cache/near"
	"github.com/nimbus-ci/nimbus/internal/transfer"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// wishing is a control plane that asks a host for one entry, until it is told.
type wishing struct {
	nimbusv1connect.UnimplementedAgentServiceHandler

	away bool
	told []nimbus.CacheWarmed // by the last heartbeat
}

func (p *wishing) Heartbeat(_ context.Context, r *connect.Request[nimbusv1.HeartbeatRequest]) (*connect.Response[nimbusv1.HeartbeatResponse], error) {
	p.told = nil
	for _, m := range r.Msg.GetWarmed() {
		p.told = append(p.told, wire.ToCacheWarmed(m))
	}
	answer := &nimbusv1.HeartbeatResponse{}
	if len(p.told) == 0 {
		answer.Wishes = []*nimbusv1.CacheWish{{OrgId: nimbus.DefaultOrgID, EntryId: 7, Bytes: 5, Path: "/_cache/entries/7?sig=x"}}
	}
	if p.away {
		return nil, wire.Error(nimbus.Errorf(nimbus.CodeUnavailable, "away"))
	}
	return connect.NewResponse(answer), nil
}

// TestHeartbeatCarriesWishes to copies on this host's disk, and what became of them
// back, until the control plane has it.
func TestHeartbeatCarriesWishes(t *testing.T) {
	plane := &wishing{}
	mux := http.NewServeMux()
	mux.Handle(nimbusv1connect.NewAgentServiceHandler(plane))
	mux.HandleFunc("/_cache/entries/7", func(w http.ResponseWriter, _ *http.Request) {
		transfer.TellEntry(w.Header(), transfer.Entry{OrgID: nimbus.DefaultOrgID, ID: 7, Size: 5})
		_, _ = io.WriteString(w, "saved") // to who may be gone
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	door, err := near.Open(near.Config{Server: server.URL, Dir: t.TempDir(), Bytes: 1 << 20, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- door.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	a := &Agent{cfg: Config{Copies: door}, control: nimbusv1connect.NewAgentServiceClient(server.Client(), server.URL)}
	beat := func(want ...nimbus.CacheWarmed) {
		t.Helper()
		if err := a.heartbeat(t.Context()); (err != nil) != plane.away {
			t.Fatal(err)
		}
		if !slices.Equal(plane.told, want) {
			t.Errorf("it tells %+v, want %+v", plane.told, want)
		}
	}
	beat()
	for end := time.Now().Add(time.Minute); len(door.Warmed(1)) == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the door does not tell")
		}
	}
	here := nimbus.CacheWarmed{OrgID: nimbus.DefaultOrgID, EntryID: 7, State: nimbus.CacheHere}
	plane.away = true
	beat(here)
	plane.away = false
	beat(here)
	beat()
	if f := door.Figures(); f.Entries != 1 || f.Misses != 1 {
		t.Errorf("%+v", f)
	}
}

// told are figures of copies.
type told struct {
	*near.Door

	figures nimbus.CacheCopies
}

func (t told) Copies() nimbus.CacheCopies { return t.figures }

// TestPollsTellOfCopies, whether the host asks for jobs or not.
func TestPollsTellOfCopies(t *testing.T) {
	t.Parallel()
	figures := nimbus.CacheCopies{Hits: 1, Misses: 2, SentBytes: 3, OriginBytes: 4, Saved: 5, Evicted: 6, EvictedBytes: 7, Refused: 8, Corrupt: 9, Entries: 10, Bytes: 11, Limit: 12}
	a := &Agent{cfg: Config{Copies: told{figures: figures}}, capacity: newCapacity(nimbus.Capacity{CPUs: 1})}
	for _, load := range []nimbus.Load{{}, {Memory: 50, Closed: nimbus.PressureMemory, Why: "everything waits"}} {
		a.pressure.load = load
		free, _ := a.free()
		if got := wire.ToFree(wire.PollRequest(free, time.Second)); got.Copies != figures || got.Check() != nil {
			t.Errorf("%+v", got)
		}
	}
	if free, _ := (&Agent{capacity: newCapacity(nimbus.Capacity{CPUs: 1})}).free(); free.Copies != (nimbus.CacheCopies{}) {
		t.Errorf("%+v", free)
	}
	wrong := nimbus.Capacity{Copies: nimbus.CacheCopies{Hits: -1}}
	if err := wrong.Check(); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
		t.Errorf("a negative figure: %v", err)
	}
}
