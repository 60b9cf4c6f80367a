package simhost

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// Done and Crashed are ends that a machine may pretend.
func Done() *nimbusv1.Outcome {
	return &nimbusv1.Outcome{Result: nimbusv1.JobResult_JOB_RESULT_SUCCESS, ExitCode: new(int32)}
}

// Crashed is the end of what a machine finds on its disk and not running.
func Crashed() *nimbusv1.Outcome {
	return &nimbusv1.Outcome{Result: nimbusv1.JobResult_JOB_RESULT_FAILURE,
		Reason: &nimbusv1.Reason{Code: string(nimbus.ReasonSandboxFailed), Message: "its process is not there"}}
}

// Pretend speaks of an attempt whose lease is not the machine's as if it were:
// it renews it, reports its start, a line of its log and its end. It returns
// what the control plane took of that, which should be nothing.
func (m *Machine) Pretend(ctx context.Context, l *nimbusv1.Lease, end *nimbusv1.Outcome) (taken []string) {
	took := func(what string, err error) {
		if err == nil {
			taken = append(taken, what)
		}
	}
	answer, err := call(ctx, m, m.API.Heartbeat, &nimbusv1.HeartbeatRequest{Leases: []*nimbusv1.Lease{l}})
	for _, s := range answer.GetLeases() {
		if nimbus.Verdict(s.GetVerdict()) != nimbus.VerdictFenced {
			took("renewal", err)
		}
	}
	_, err = call(ctx, m, m.API.ReportPhase, &nimbusv1.ReportPhaseRequest{Lease: l, Phase: string(nimbus.PhaseStarted)})
	took("start", err)
	_, err = call(ctx, m, m.API.AppendLog, &nimbusv1.AppendLogRequest{Lease: l, Lines: []*nimbusv1.Line{
		{Seq: 1, Stream: string(nimbus.StreamStdout), At: timestamppb.New(time.Now()), Text: []byte("of another machine")},
	}})
	took("line", err)
	_, err = call(ctx, m, m.API.FinishAttempt, &nimbusv1.FinishAttemptRequest{Lease: l, Outcome: end})
	took("end", err)
	return taken
}

// EndLate reports the end of an attempt of the machine's own, as a packet does
// that was under way for longer than the lease.
func (m *Machine) EndLate(ctx context.Context, l *nimbusv1.Lease, end *nimbusv1.Outcome) {
	_, _ = call(ctx, m, m.API.FinishAttempt, &nimbusv1.FinishAttemptRequest{Lease: l, Outcome: end}) // nobody waits for the answer
}
