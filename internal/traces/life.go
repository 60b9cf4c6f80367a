package traces

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// jobSpan is the span of a job's whole life.
const jobSpan = "job"

// Life are the spans of a job's life: the job, and its parts in their order, each
// of which ends where the next begins. Of a job that goes on, the last ones have no
// end.
func Life(j *nimbus.Job) []nimbus.Span {
	var reached []nimbus.Span
	for _, p := range []struct {
		name string
		from time.Time
	}{
		{"received", j.Timeline.ReceivedAt}, {"queued", j.Timeline.AdmittedAt}, {"offered", j.Timeline.OfferedAt}, {"accepted", j.Timeline.AcceptedAt},
		{"sandbox", j.Timeline.SandboxReadyAt}, {nimbus.RunSpan, j.Timeline.RunningAt}, {"finish", j.Timeline.FinishedAt},
	} {
		if !p.from.IsZero() {
			s := lifeSpan(j, p.name, jobSpan)
			s.Start = p.from
			s.Attributes = taskAttributes(j, p.name)
			reached = append(reached, s)
		}
	}
	if len(reached) == 0 {
		return nil
	}
	over := j.Timeline.FinishedAt
	if j.Timeline.DestroyedAt.After(over) {
		over = j.Timeline.DestroyedAt
	}
	if j.State != nimbus.StateFinished {
		over = time.Time{}
	}
	for i := range reached {
		if reached[i].End = over; i+1 < len(reached) {
			reached[i].End = reached[i+1].Start
		}
		if end := reached[i].End; !end.IsZero() && end.Before(reached[i].Start) { // an earlier attempt's time, of a job that ended while it was queued again
			reached[i].End = reached[i].Start
		}
		if reached[i].Name == nimbus.RunSpan && !j.Timeline.FirstOutputAt.IsZero() {
			reached[i].Events = []nimbus.SpanEvent{{Name: "first output", At: j.Timeline.FirstOutputAt}}
		}
	}
	job := lifeSpan(j, jobSpan, "")
	job.Kind, job.Start, job.End, job.Attributes = "server", reached[0].Start, over, jobAttributes(j)
	if j.State == nimbus.StateFinished && j.Result != nimbus.ResultSuccess && j.Result != nimbus.ResultCancelled {
		job.Status, job.StatusMessage = "error", string(j.Result)
	}
	return append([]nimbus.Span{job}, reached...)
}

func lifeSpan(j *nimbus.Job, name, parent string) nimbus.Span {
	trace, id := nimbus.TraceID(j.ID), nimbus.SpanID(j.ID, name)
	s := nimbus.Span{TraceID: hex.EncodeToString(trace[:]), SpanID: hex.EncodeToString(id[:]), Name: name, Kind: "internal", Service: "nimbus",
		Lifecycle: true, AttemptID: j.AttemptID}
	if parent != "" {
		id = nimbus.SpanID(j.ID, parent)
		s.ParentID = hex.EncodeToString(id[:])
	}
	return s
}

// results are what the conventions of CI/CD call how a job ended: a failure is the
// job's own, an error that of who was to run it.
var results = map[nimbus.Result]string{
	nimbus.ResultSuccess: "success", nimbus.ResultFailure: "failure", nimbus.ResultCancelled: "cancellation", nimbus.ResultTimedOut: "timeout", nimbus.ResultLost: "error",
}

// jobAttributes are those of a job, as the conventions of CI/CD and of version
// control have them, and as Nimbus has what they don't.
func jobAttributes(j *nimbus.Job) map[string]string {
	all := map[string]string{
		"nimbus.job.id": j.ID, "nimbus.org.id": j.OrgID, "nimbus.job.source": string(j.Source), "nimbus.job.result": string(j.Result),
		"nimbus.class.id": j.Class.ID(), "nimbus.job.attempts": strconv.Itoa(j.AttemptCount), "nimbus.host.id": j.HostID, "nimbus.attempt.id": j.AttemptID,
		"nimbus.job.reason": string(j.Reason.Code), "nimbus.job.name": j.Name,
		"cicd.pipeline.result": results[j.Result], "cicd.pipeline.action.name": "RUN", "cicd.pipeline.name": j.GitHub.WorkflowName, "cicd.pipeline.run.url.full": j.GitHub.HTMLURL,
		"cicd.worker.id": j.HostID, "vcs.repository.name": j.Repo, "vcs.ref.head.revision": j.GitHub.HeadSHA, "vcs.ref.head.name": j.GitHub.HeadBranch,
	}
	if j.GitHub.RunID != 0 {
		all["cicd.pipeline.run.id"], all["vcs.provider.name"] = strconv.FormatInt(j.GitHub.RunID, 10), "github"
	}
	if j.Result == nimbus.ResultFailure || j.Result == nimbus.ResultLost {
		all["error.type"] = string(j.Reason.Code)
	}
	for key, value := range all {
		if value == "" {
			delete(all, key)
		}
	}
	// A job's metadata has no word for which label it is of: that of meta:KEY has no
	// value.
	for key, value := range j.Metadata {
		if value == "" {
			all["nimbus.meta."+key] = "true"
		} else {
			all["nimbus.param."+key] = value
		}
	}
	return all
}

func taskAttributes(j *nimbus.Job, name string) map[string]string {
	return map[string]string{"cicd.pipeline.task.name": name, "cicd.pipeline.task.run.id": j.ID + "/" + name}
}

// stepSpans are the steps of a job's log, each up to the next, below the part of
// its life in which its processes run.
func stepSpans(j *nimbus.Job, lines []nimbus.Line) []nimbus.Span {
	all := make([]nimbus.Span, len(lines))
	for i, l := range lines {
		s := lifeSpan(j, fmt.Sprint("step ", l.Step), nimbus.RunSpan)
		name := []rune(l.Text)
		s.Name, s.Start, s.End = string(name[:min(len(name), stepName)]), l.At, j.Timeline.FinishedAt
		if i+1 < len(lines) {
			s.End = lines[i+1].At
		}
		if !s.End.IsZero() && s.End.Before(s.Start) {
			s.End = s.Start
		}
		s.Attributes = map[string]string{"cicd.pipeline.task.name": s.Name, "cicd.pipeline.task.run.id": fmt.Sprint(j.ID, "/step ", l.Step)}
		all[i] = s
	}
	return all
}
