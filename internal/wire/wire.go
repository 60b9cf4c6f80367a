// Package wire turns the house's vocabulary into messages and back. It is the
// one place where both are known; the host agent, the server and the client
// use the same.
package wire

import (
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// Time makes a timestamp; a zero time is absent.
func Time(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// ToTime reads a timestamp; an absent one is the zero time.
func ToTime(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

// Duration makes a duration; zero is absent.
func Duration(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

// Lease makes a message.
func Lease(l nimbus.Lease) *nimbusv1.Lease {
	return &nimbusv1.Lease{AttemptId: l.AttemptID, Fence: l.Fence}
}

// ToLease reads one.
func ToLease(l *nimbusv1.Lease) nimbus.Lease {
	return nimbus.Lease{AttemptID: l.GetAttemptId(), Fence: l.GetFence()}
}

// Leases makes messages.
func Leases(ls []nimbus.Lease) []*nimbusv1.Lease {
	out := make([]*nimbusv1.Lease, len(ls))
	for i, l := range ls {
		out[i] = Lease(l)
	}
	return out
}

// ToLeases reads them.
func ToLeases(ls []*nimbusv1.Lease) []nimbus.Lease {
	out := make([]nimbus.Lease, len(ls))
	for i, l := range ls {
		out[i] = ToLease(l)
	}
	return out
}

// LeaseStatuses makes messages.
func LeaseStatuses(ls []nimbus.LeaseStatus) []*nimbusv1.LeaseStatus {
	out := make([]*nimbusv1.LeaseStatus, len(ls))
	for i, l := range ls {
		out[i] = &nimbusv1.LeaseStatus{AttemptId: l.AttemptID, Verdict: string(l.Verdict), Reason: l.Reason}
	}
	return out
}

// ToLeaseStatuses reads them.
func ToLeaseStatuses(ls []*nimbusv1.LeaseStatus) []nimbus.LeaseStatus {
	out := make([]nimbus.LeaseStatus, len(ls))
	for i, l := range ls {
		out[i] = nimbus.LeaseStatus{AttemptID: l.GetAttemptId(), Verdict: nimbus.Verdict(l.GetVerdict()), Reason: l.GetReason()}
	}
	return out
}

// Class makes a message.
func Class(c nimbus.Class) *nimbusv1.Class {
	return &nimbusv1.Class{
		Executor: c.Executor, Image: c.Image, Arch: c.Arch, Cpus: int32(c.CPUs), MemoryMib: int32(c.MemoryMiB), Network: string(c.Network),
		Gpus: int32(c.GPUs), GpuProfile: c.GPUProfile, Needs: c.Needs.Words(), Reach: c.Reach.Words(),
	}
}

// ToClass reads one.
func ToClass(c *nimbusv1.Class) nimbus.Class {
	return nimbus.Class{
		Executor: c.GetExecutor(), Image: c.GetImage(), Arch: c.GetArch(), CPUs: int(c.GetCpus()), MemoryMiB: int(c.GetMemoryMib()),
		Network: nimbus.NetworkProfile(c.GetNetwork()), GPUs: int(c.GetGpus()), GPUProfile: c.GetGpuProfile(),
		Needs: nimbus.Capabilities(strings.Join(c.GetNeeds(), " ")), Reach: nimbus.Names(strings.Join(c.GetReach(), " ")),
	}
}

// Spec makes a message.
func Spec(s nimbus.Spec) *nimbusv1.Spec {
	return &nimbusv1.Spec{Command: s.Command, Env: s.Env, WorkspaceId: s.WorkspaceID, Timeout: Duration(s.Timeout), Repeatable: s.Repeatable,
		QueueTimeout: Duration(s.QueueTimeout), Hold: Duration(s.Hold)}
}

// ToSpec reads one.
func ToSpec(s *nimbusv1.Spec) nimbus.Spec {
	return nimbus.Spec{
		Command: s.GetCommand(), Env: s.GetEnv(), WorkspaceID: s.GetWorkspaceId(), Timeout: s.GetTimeout().AsDuration(), Repeatable: s.GetRepeatable(),
		QueueTimeout: s.GetQueueTimeout().AsDuration(), Hold: s.GetHold().AsDuration(),
	}
}

// Offer makes a message.
func Offer(o nimbus.Offer) *nimbusv1.Offer {
	return &nimbusv1.Offer{Lease: Lease(o.Lease), JobId: o.JobID, Class: Class(o.Class)}
}

// ToOffer reads one.
func ToOffer(o *nimbusv1.Offer) nimbus.Offer {
	return nimbus.Offer{Lease: ToLease(o.GetLease()), JobID: o.GetJobId(), Class: ToClass(o.GetClass())}
}

// Assignment makes a message.
func Assignment(a nimbus.Assignment) *nimbusv1.Assignment {
	return &nimbusv1.Assignment{
		Lease: Lease(a.Lease), JobId: a.JobID, OrgId: a.OrgID, Source: string(a.Source), Name: a.Name, Class: Class(a.Class),
		Spec: Spec(a.Spec), Timeout: Duration(a.Timeout), JobToken: a.JobToken, CacheToken: a.CacheToken, CacheDoor: a.CacheDoor, Telemetry: a.Telemetry,
	}
}

// ToAssignment reads one.
func ToAssignment(a *nimbusv1.Assignment) nimbus.Assignment {
	return nimbus.Assignment{
		Lease: ToLease(a.GetLease()), JobID: a.GetJobId(), OrgID: a.GetOrgId(), Source: nimbus.Source(a.GetSource()), Name: a.GetName(),
		Class: ToClass(a.GetClass()), Spec: ToSpec(a.GetSpec()), Timeout: a.GetTimeout().AsDuration(), JobToken: a.GetJobToken(), CacheToken: a.GetCacheToken(), CacheDoor: a.GetCacheDoor(), Telemetry: a.GetTelemetry(),
	}
}

// Line makes a message.
func Line(l nimbus.Line) *nimbusv1.Line {
	return &nimbusv1.Line{Seq: l.Seq, At: Time(l.At), Stream: string(l.Stream), Step: l.Step, Group: l.Group, Text: []byte(l.Text)}
}

// ToLine reads one.
func ToLine(l *nimbusv1.Line) nimbus.Line {
	return nimbus.Line{Seq: l.GetSeq(), At: ToTime(l.GetAt()), Stream: nimbus.Stream(l.GetStream()), Step: l.GetStep(), Group: l.GetGroup(), Text: string(l.GetText())}
}

// Reason makes a message; none is absent.
func Reason(r nimbus.Reason) *nimbusv1.Reason {
	if r == (nimbus.Reason{}) {
		return nil
	}
	return &nimbusv1.Reason{Code: string(r.Code), Message: asText(r.Message)}
}

// asText makes text of what may have come out of a sandbox: a message with a
// NUL or a broken character is refused, and the outcome of a job must not be.
func asText(s string) string {
	return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", "�"), "�")
}

func toReason(r *nimbusv1.Reason) nimbus.Reason {
	return nimbus.Reason{Code: nimbus.ReasonCode(r.GetCode()), Message: r.GetMessage()}
}

// Outcome makes a message.
func Outcome(o nimbus.Outcome) *nimbusv1.Outcome {
	return &nimbusv1.Outcome{
		Result: Result(o.Result), ExitCode: int32Of(o.ExitCode), Signal: asText(o.Signal), Reason: Reason(o.Reason), LogLines: o.LogLines,
		CpuTime: Duration(o.Usage.CPUTime), MaxRssBytes: o.Usage.MaxRSSBytes, DiskBytes: o.Usage.DiskBytes,
		WallDuration: Duration(o.Usage.WallDuration), BeforeStart: o.BeforeStart, Sandbox: UsageTotals(o.Usage.Sandbox),
		Series: UsageSeries(o.Series),
	}
}

// ToOutcome reads one; an absent one is empty.
func ToOutcome(o *nimbusv1.Outcome) nimbus.Outcome {
	if o == nil {
		return nimbus.Outcome{}
	}
	return nimbus.Outcome{
		Result: ToResult(o.GetResult()), ExitCode: intOf(o.ExitCode), Signal: o.GetSignal(), Reason: toReason(o.GetReason()), LogLines: o.GetLogLines(),
		Usage: nimbus.Usage{
			CPUTime: o.GetCpuTime().AsDuration(), MaxRSSBytes: o.GetMaxRssBytes(), DiskBytes: o.GetDiskBytes(), WallDuration: o.GetWallDuration().AsDuration(),
			Sandbox: ToUsageTotals(o.GetSandbox()),
		},
		BeforeStart: o.GetBeforeStart(), Series: ToUsageSeries(o.GetSeries()),
	}
}

func int32Of(v *int) *int32 {
	if v == nil {
		return nil
	}
	n := int32(*v)
	return &n
}

func intOf(v *int32) *int {
	if v == nil {
		return nil
	}
	n := int(*v)
	return &n
}
