package wire

import (
	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

var states = map[nimbus.State]nimbusv1.JobState{
	nimbus.StatePending: nimbusv1.JobState_JOB_STATE_PENDING, nimbus.StateQueued: nimbusv1.JobState_JOB_STATE_QUEUED,
	nimbus.StateOffered: nimbusv1.JobState_JOB_STATE_OFFERED, nimbus.StateAccepted: nimbusv1.JobState_JOB_STATE_ACCEPTED,
	nimbus.StateRunning: nimbusv1.JobState_JOB_STATE_RUNNING, nimbus.StateFinished: nimbusv1.JobState_JOB_STATE_FINISHED,
	nimbus.StateUnschedulable: nimbusv1.JobState_JOB_STATE_UNSCHEDULABLE,
}

var results = map[nimbus.Result]nimbusv1.JobResult{
	nimbus.ResultSuccess: nimbusv1.JobResult_JOB_RESULT_SUCCESS, nimbus.ResultFailure: nimbusv1.JobResult_JOB_RESULT_FAILURE,
	nimbus.ResultCancelled: nimbusv1.JobResult_JOB_RESULT_CANCELLED, nimbus.ResultTimedOut: nimbusv1.JobResult_JOB_RESULT_TIMED_OUT,
	nimbus.ResultLost: nimbusv1.JobResult_JOB_RESULT_LOST,
}

// State makes an enum value.
func State(s nimbus.State) nimbusv1.JobState { return states[s] }

// ToState reads one, "" for an unknown one.
func ToState(s nimbusv1.JobState) nimbus.State {
	for k, v := range states {
		if v == s {
			return k
		}
	}
	return ""
}

// Result makes an enum value.
func Result(r nimbus.Result) nimbusv1.JobResult { return results[r] }

// ToResult reads one, "" for an unknown one.
func ToResult(r nimbusv1.JobResult) nimbus.Result {
	for k, v := range results {
		if v == r {
			return k
		}
	}
	return ""
}

// Job makes a message.
func Job(j nimbus.Job) *nimbusv1.Job {
	out := &nimbusv1.Job{
		Id: j.ID, OrgId: j.OrgID, Source: string(j.Source), Name: j.Name, Labels: j.Labels, Class: Class(j.Class),
		State: State(j.State), Result: Result(j.Result), Reason: Reason(j.Reason), ExitCode: int32Of(j.ExitCode),
		AttemptId: j.AttemptID, AttemptCount: int32(j.AttemptCount), HostId: j.HostID, Timeline: timeline(j.Timeline),
		LogLines: j.LogLines, LogComplete: j.LogComplete, Metadata: j.Metadata,
		Priority: int32(j.Priority), RerunOf: j.RerunOf, MaxAttempts: int32(j.MaxAttempts),
		HeldUntil: Time(j.HeldUntil), Usage: UsageTotals(j.Usage),
	}
	switch j.Source {
	case nimbus.SourceNative:
		out.Spec = Spec(j.Spec)
	case nimbus.SourceGitHub:
		g := j.GitHub
		out.Github = &nimbusv1.GitHubJob{
			Owner: g.Owner, Repo: g.Repo, JobId: g.JobID, RunId: g.RunID, RunAttempt: g.RunAttempt, WorkflowName: g.WorkflowName,
			HeadBranch: g.HeadBranch, HeadSha: g.HeadSHA, HtmlUrl: g.HTMLURL,
		}
	}
	return out
}

// ToJob reads one; an absent one is empty.
func ToJob(j *nimbusv1.Job) nimbus.Job {
	if j == nil {
		return nimbus.Job{}
	}
	out := nimbus.Job{
		ID: j.GetId(), OrgID: j.GetOrgId(), Source: nimbus.Source(j.GetSource()), Name: j.GetName(), Labels: j.GetLabels(), Class: ToClass(j.GetClass()),
		State: ToState(j.GetState()), Result: ToResult(j.GetResult()), Reason: toReason(j.GetReason()), ExitCode: intOf(j.ExitCode),
		AttemptID: j.GetAttemptId(), AttemptCount: int(j.GetAttemptCount()), HostID: j.GetHostId(), Timeline: toTimeline(j.GetTimeline()),
		LogLines: j.GetLogLines(), LogComplete: j.GetLogComplete(), Spec: ToSpec(j.GetSpec()),
		Metadata: j.GetMetadata(), Priority: int(j.GetPriority()), RerunOf: j.GetRerunOf(), MaxAttempts: int(j.GetMaxAttempts()),
		HeldUntil: ToTime(j.GetHeldUntil()), Usage: ToUsageTotals(j.GetUsage()),
	}
	if g := j.GetGithub(); g != nil {
		out.Repo = g.GetOwner() + "/" + g.GetRepo()
		out.GitHub = nimbus.GitHubJob{
			Owner: g.GetOwner(), Repo: g.GetRepo(), JobID: g.GetJobId(), RunID: g.GetRunId(), RunAttempt: g.GetRunAttempt(),
			WorkflowName: g.GetWorkflowName(), HeadBranch: g.GetHeadBranch(), HeadSHA: g.GetHeadSha(), HTMLURL: g.GetHtmlUrl(),
		}
	}
	return out
}

func timeline(t nimbus.Timeline) *nimbusv1.Timeline {
	return &nimbusv1.Timeline{
		ReceivedAt: Time(t.ReceivedAt), AdmittedAt: Time(t.AdmittedAt), QueuedAt: Time(t.QueuedAt), OfferedAt: Time(t.OfferedAt),
		AcceptedAt: Time(t.AcceptedAt), SandboxReadyAt: Time(t.SandboxReadyAt), RunningAt: Time(t.RunningAt),
		FirstOutputAt: Time(t.FirstOutputAt), FinishedAt: Time(t.FinishedAt), DestroyedAt: Time(t.DestroyedAt),
	}
}

func toTimeline(t *nimbusv1.Timeline) nimbus.Timeline {
	return nimbus.Timeline{
		ReceivedAt: ToTime(t.GetReceivedAt()), AdmittedAt: ToTime(t.GetAdmittedAt()), QueuedAt: ToTime(t.GetQueuedAt()),
		OfferedAt: ToTime(t.GetOfferedAt()), AcceptedAt: ToTime(t.GetAcceptedAt()), SandboxReadyAt: ToTime(t.GetSandboxReadyAt()),
		RunningAt: ToTime(t.GetRunningAt()), FirstOutputAt: ToTime(t.GetFirstOutputAt()), FinishedAt: ToTime(t.GetFinishedAt()),
		DestroyedAt: ToTime(t.GetDestroyedAt()),
	}
}

// Event makes a message.
func Event(e nimbus.JobEvent) *nimbusv1.JobEvent {
	return &nimbusv1.JobEvent{Seq: e.Seq, At: Time(e.At), Kind: e.Kind, AttemptId: e.AttemptID, Actor: e.Actor, Detail: e.Detail}
}

// ToEvent reads one.
func ToEvent(e *nimbusv1.JobEvent) nimbus.JobEvent {
	return nimbus.JobEvent{Seq: e.GetSeq(), At: ToTime(e.GetAt()), Kind: e.GetKind(), AttemptID: e.GetAttemptId(), Actor: e.GetActor(), Detail: e.GetDetail()}
}
