package agent

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/api/gen/nimbus/v1/nimbusv1connect"
	"github.com/nimbus-ci/nimbus/internal/logs/lines"
	"github.com/nimbus-ci/nimbus/internal/logs/wal"
	"github.com/nimbus-ci/nimbus/internal/telemetry/otlp"
	"github.com/nimbus-ci/nimbus/internal/wire"
)

// guestDouble is a guest with requests of JSON, by number.
type guestDouble struct {
	waiting  []*nimbusv1.TakeTelemetryResponse
	taken    int64
	verdicts []int32
}

func (g *guestDouble) sends(bodies ...string) {
	for _, body := range bodies {
		g.waiting = append(g.waiting, &nimbusv1.TakeTelemetryResponse{Seq: int64(len(g.waiting)) + 1, Signal: "logs", ContentType: "application/json", Size: int64(len(body)), Piece: []byte(body)})
	}
}

// TakeTelemetry implements teller: it hands out pieces of 40 bytes.
func (g *guestDouble) TakeTelemetry(_ context.Context, r *connect.Request[nimbusv1.TakeTelemetryRequest]) (*connect.Response[nimbusv1.TakeTelemetryResponse], error) {
	if r.Msg.GetTakenSeq() > g.taken {
		g.taken = r.Msg.GetTakenSeq()
		g.verdicts = append(g.verdicts, r.Msg.GetVerdict().GetStatus())
	}
	for _, p := range g.waiting {
		if p.GetSeq() > r.Msg.GetTakenSeq() {
			const piece = 40
			from := min(r.Msg.GetOffset(), p.GetSize())
			return connect.NewResponse(&nimbusv1.TakeTelemetryResponse{Seq: p.GetSeq(), Signal: p.GetSignal(), ContentType: p.GetContentType(), Size: p.GetSize(), OutputSeq: p.GetOutputSeq(),
				Piece: p.GetPiece()[from:min(from+piece, p.GetSize())]}), nil
		}
	}
	return connect.NewResponse(&nimbusv1.TakeTelemetryResponse{Ended: true}), nil
}

// record is a request with n log records that hold a text.
func record(n int, text string) string {
	one := fmt.Sprintf(`{"body":{"stringValue":%q}}`, text)
	return `{"resourceLogs":[{"scopeLogs":[{"logRecords":[` + strings.Repeat(one+",", n-1) + one + `]}]}]}`
}

// telling is an attempt whose telemetry is taken. Its spool has so much room.
func telling(t *testing.T, room int64) *attempt {
	t.Helper()
	dir := t.TempDir()
	w, err := wal.Open(filepath.Join(dir, "wal"), walLimit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	s, err := openSpool(filepath.Join(dir, "otlp"), room)
	if err != nil {
		t.Fatal(err)
	}
	return &attempt{agent: &Agent{decoding: make(chan struct{}, 1)}, wal: w, spool: s, seal: testSeal(), log: slog.New(slog.NewTextHandler(t.Output(), nil))}
}

// takeAll takes what a guest has, up to a number of requests.
func takeAll(t *testing.T, x *taker, g teller, most int) {
	t.Helper()
	for range most {
		ended, err := x.take(t.Context(), g)
		if err != nil {
			t.Fatal(err)
		}
		if ended {
			return
		}
	}
}

// bodies are the texts of the records that a spool holds, by batch.
func bodies(t *testing.T, s *spool) (all []string) {
	t.Helper()
	batches, _, err := s.next(1 << 30)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range batches {
		b, err := otlp.Open(nimbus.SignalLogs, wire.ToTelemetryBatch(m).Data)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b.Logs()[0].Body)
	}
	return all
}

// TestTelemetryGoesOnAnew: the last requests before the agent's end were refused or
// empty, so that nothing of them is kept: the next agent goes on behind them.
func TestTelemetryGoesOnAnew(t *testing.T) {
	t.Parallel()
	a, g := telling(t, spoolLimit), &guestDouble{}
	g.sends(record(1, "first"), "[", `{}`, record(1, "second"), record(1, "third"))
	takeAll(t, newTaker(a), g, 3)
	g.waiting = g.waiting[3:] // the guest heard of all three
	if fmt.Sprint(g.verdicts) != "[200 400]" {
		t.Errorf("its senders heard %v", g.verdicts)
	}
	var err error
	if a.spool, err = openSpool(a.spool.dir, spoolLimit); err != nil {
		t.Fatal(err)
	}
	x := newTaker(a)
	takeAll(t, x, g, 10)
	if got := fmt.Sprint(bodies(t, a.spool)); got != "[first second third]" || x.lost != 0 || a.spool.takenSeq() != 5 {
		t.Errorf("it holds %s, taken up to %d, lost %d", got, a.spool.takenSeq(), x.lost)
	}
	// From then on none is left out.
	g.waiting = append(g.waiting, &nimbusv1.TakeTelemetryResponse{Seq: 7, Size: 1, Piece: []byte("[")})
	if _, err := x.take(t.Context(), g); err == nil {
		t.Error("a guest that leaves one out goes on")
	}
}

// TestTelemetryOfAFullSpool: who is told to send again does, so nothing is lost of
// it, other than of what is refused for good.
func TestTelemetryOfAFullSpool(t *testing.T) {
	t.Parallel()
	a, g := telling(t, 10), &guestDouble{}
	x := newTaker(a)
	g.sends(record(1, "one"), record(1, "one"))
	takeAll(t, x, g, 10)
	if words := x.lostWords(); words != "" || fmt.Sprint(g.verdicts) != "[503 503]" {
		t.Errorf("senders heard %v, the log says %q", g.verdicts, words)
	}
	g.sends("[")
	takeAll(t, x, g, 10)
	if words := x.lostWords(); !strings.HasPrefix(words, "telemetry: 1 requests or items were not kept: the body is no OTLP/JSON") {
		t.Errorf("the log says %q", words)
	}
}

// fullServer has no room.
type fullServer struct {
	nimbusv1connect.AgentServiceClient
}

func (fullServer) AppendTelemetry(context.Context, *connect.Request[nimbusv1.AppendTelemetryRequest]) (*connect.Response[nimbusv1.AppendTelemetryResponse], error) {
	return nil, nimbus.Errorf(nimbus.CodeTooLarge, "the org has enough")
}

// TestTelemetryBeyondAQuota: what was taken, and finds no room at the server, is
// told in the job's log as what comes after it.
func TestTelemetryBeyondAQuota(t *testing.T) {
	t.Parallel()
	a, g := telling(t, spoolLimit), &guestDouble{}
	a.agent.control = fullServer{}
	x := newTaker(a)
	g.sends(record(3, "one"), record(4, "two"), record(1, "three"))
	takeAll(t, x, g, 2)
	a.runTelemetryLoop(t.Context())
	if words := x.lostWords(); words != "telemetry: 7 requests or items were not kept: "+noRoom {
		t.Errorf("the log says %q", words)
	}
	takeAll(t, x, g, 10)
	if words := x.lostWords(); words != "telemetry: 8 requests or items were not kept: "+noRoom || len(bodies(t, a.spool)) != 0 {
		t.Errorf("after another one it says %q", words)
	}
}

// TestTelemetryFollowsOutput: a request waits for the output that was written before it,
// which names a secret, and for none that never comes once the job is over.
func TestTelemetryFollowsOutput(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, g := telling(t, spoolLimit), &guestDouble{}
		x := newTaker(a)
		g.sends(record(1, "a told secret"), record(1, "a told secret"))
		g.waiting[0].OutputSeq, g.waiting[1].OutputSeq = 2, 99
		taken := make(chan int, 2)
		go func() {
			for i := range 2 {
				takeAll(t, x, g, 1)
				taken <- i
			}
		}()
		s := lines.NewSplitter(nimbus.SystemClock{}, 0, lines.State{})
		keep := func(event int64, said string) {
			t.Helper()
			out := s.Write(nimbus.StreamStdout, []byte(said))
			at, err := a.checkpoint(event, s)
			if err != nil {
				t.Fatal(err)
			}
			if err := a.wal.Append(out, at); err != nil {
				t.Fatal(err)
			}
		}
		keep(1, "a line\n")
		synctest.Wait()
		if len(taken) != 0 {
			t.Error("it was taken before the output that came before it")
		}
		keep(2, "::add-mask::a told secret\n")
		<-taken
		synctest.Wait()
		if len(taken) != 0 {
			t.Error("it was taken before output that may come")
		}
		close(x.quiet)
		<-taken
		if got := strings.Join(bodies(t, a.spool), ","); got != "***,***" {
			t.Errorf("it holds %s", got)
		}
	})
}

// TestTelemetryHidesSecrets: those that the job was given, and those that it told
// while its telemetry was taken already.
func TestTelemetryHidesSecrets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testTelemetryHidesSecrets)
}

func testTelemetryHidesSecrets(t *testing.T) {
	a, g := telling(t, spoolLimit), &guestDouble{}
	a.state.Secrets = []string{"a given secret"}
	x := newTaker(a)
	tell := func(event int64, masks ...string) {
		var s lines.Splitter
		for _, m := range masks {
			s.Mask(m)
		}
		at, err := a.checkpoint(event, &s)
		if err != nil {
			t.Fatal(err)
		}
		if err := a.wal.Append([]nimbus.Line{{Seq: event, Text: "x"}}, at); err != nil {
			t.Fatal(err)
		}
	}
	const text = "a given secret, a told secret, a late secret"
	g.sends(record(1, text), record(1, text), record(1, text))
	takeAll(t, x, g, 1)
	tell(1, "a told secret")
	takeAll(t, x, g, 1)
	// One that is told while the request waits for its turn to be decoded is hidden, too.
	a.agent.decoding <- struct{}{}
	taken := make(chan struct{})
	go func() {
		defer close(taken)
		takeAll(t, x, g, 1)
	}()
	synctest.Wait()
	tell(2, "a told secret", "a late secret")
	<-a.agent.decoding
	<-taken
	if got := strings.Join(bodies(t, a.spool), "\n"); got != "***, a told secret, a late secret\n***, ***, a late secret\n***, ***, ***" {
		t.Errorf("it holds\n%s", got)
	}
}
