package agent

import (
	"context"
	"log/slog"
	"slices"
	"testing"

	"connectrpc.com/connect"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/api/gen/nimbus/v1/nimbusv1connect"
)

// lateBeat is a control plane that takes an outcome while a heartbeat is on its
// way, whose answer is that the attempt has no lease.
type lateBeat struct {
	nimbusv1connect.AgentServiceClient

	beat func()
	told []string
}

func (b *lateBeat) FinishAttempt(context.Context, *connect.Request[nimbusv1.FinishAttemptRequest]) (*connect.Response[nimbusv1.FinishAttemptResponse], error) {
	b.told = append(b.told, "outcome")
	b.beat()
	return connect.NewResponse(&nimbusv1.FinishAttemptResponse{}), nil
}

func (b *lateBeat) ReportPhase(_ context.Context, r *connect.Request[nimbusv1.ReportPhaseRequest]) (*connect.Response[nimbusv1.ReportPhaseResponse], error) {
	b.told = append(b.told, r.Msg.GetPhase())
	return connect.NewResponse(&nimbusv1.ReportPhaseResponse{}), nil
}

// TestDestroyedIsToldWhateverTheLastBeatHeard: otherwise the sandbox of a job
// that has ended seems to be there for ever.
func TestDestroyedIsToldWhateverTheLastBeatHeard(t *testing.T) {
	t.Parallel()
	control := &lateBeat{}
	a := &Agent{cfg: Config{Data: t.TempDir()}, log: slog.New(slog.DiscardHandler), control: control, sealer: &sealer{key: make([]byte, keyBytes)}}
	at := &attempt{agent: a, dir: t.TempDir(), log: a.log, ended: make(chan struct{})}
	control.beat = func() {
		at.obey(t.Context(), nimbus.LeaseStatus{Verdict: nimbus.VerdictFenced}, at.renewed)
	}
	at.report(t.Context(), nimbus.Outcome{Result: nimbus.ResultSuccess})
	if !at.destroy(t.Context()) {
		t.Error("it is not destroyed")
	}
	if want := []string{"outcome", string(nimbus.PhaseDestroyed)}; !slices.Equal(control.told, want) {
		t.Errorf("told %v, not %v", control.told, want)
	}
}
