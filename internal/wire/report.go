package wire

import (
	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// Report makes a message.
func Report(r nimbus.Report) *nimbusv1.GetReportResponse {
	out := &nimbusv1.GetReportResponse{Since: Time(r.Since), Until: Time(r.Until), Runs: int32(r.Runs), Sampled: r.Sampled}
	for _, c := range r.Classes {
		m := &nimbusv1.ClassReport{Class: Class(c.Class), Runs: int32(c.Runs), Failed: int32(c.Failed), Started: int32(c.Started), Warm: int32(c.Warm)}
		for _, p := range c.Phases {
			m.Phases = append(m.Phases, &nimbusv1.PhaseReport{Phase: string(p.Phase), Runs: int32(p.Runs),
				P50: Duration(p.P50), P95: Duration(p.P95), P99: Duration(p.P99)})
		}
		out.Classes = append(out.Classes, m)
	}
	for _, g := range r.Regressions {
		out.Regressions = append(out.Regressions, &nimbusv1.Regression{Class: Class(g.Class), Phase: string(g.Phase), Name: asText(g.Name), Repo: g.Repo,
			Since: Time(g.Since), BeforeRuns: int32(g.BeforeRuns), Before: Duration(g.Before), AfterRuns: int32(g.AfterRuns), After: Duration(g.After)})
	}
	for _, a := range r.Advice {
		out.Advice = append(out.Advice, &nimbusv1.Advice{Name: asText(a.Name), Repo: a.Repo, Class: Class(a.Class), Resource: string(a.Resource), Runs: int32(a.Runs),
			Has: int32(a.Has), Enough: int32(a.Enough), Mean: a.Mean, Most: a.Most, SavedHours: a.SavedHours, Label: a.Label})
	}
	return out
}

// ToReport reads one.
func ToReport(m *nimbusv1.GetReportResponse) nimbus.Report {
	r := nimbus.Report{Since: ToTime(m.GetSince()), Until: ToTime(m.GetUntil()), Runs: int(m.GetRuns()), Sampled: m.GetSampled()}
	for _, c := range m.GetClasses() {
		of := nimbus.ClassReport{Class: ToClass(c.GetClass()), Runs: int(c.GetRuns()), Failed: int(c.GetFailed()), Started: int(c.GetStarted()), Warm: int(c.GetWarm())}
		for _, p := range c.GetPhases() {
			of.Phases = append(of.Phases, nimbus.PhaseReport{Phase: nimbus.RunPhase(p.GetPhase()), Runs: int(p.GetRuns()),
				P50: p.GetP50().AsDuration(), P95: p.GetP95().AsDuration(), P99: p.GetP99().AsDuration()})
		}
		r.Classes = append(r.Classes, of)
	}
	for _, g := range m.GetRegressions() {
		r.Regressions = append(r.Regressions, nimbus.Regression{Class: ToClass(g.GetClass()), Phase: nimbus.RunPhase(g.GetPhase()), Name: g.GetName(), Repo: g.GetRepo(),
			Since: ToTime(g.GetSince()), BeforeRuns: int(g.GetBeforeRuns()), Before: g.GetBefore().AsDuration(),
			AfterRuns: int(g.GetAfterRuns()), After: g.GetAfter().AsDuration()})
	}
	for _, a := range m.GetAdvice() {
		r.Advice = append(r.Advice, nimbus.Advice{Name: a.GetName(), Repo: a.GetRepo(), Class: ToClass(a.GetClass()), Resource: nimbus.Resource(a.GetResource()),
			Runs: int(a.GetRuns()), Has: int(a.GetHas()), Enough: int(a.GetEnough()), Mean: a.GetMean(), Most: a.GetMost(),
			SavedHours: a.GetSavedHours(), Label: a.GetLabel()})
	}
	return r
}

// HostJob makes a message.
func HostJob(j nimbus.HostJob) *nimbusv1.HostJob {
	return &nimbusv1.HostJob{HostId: j.HostID, JobId: j.JobID, OrgId: j.OrgID, AttemptId: j.AttemptID, Name: asText(j.Name), Repo: j.Repo, Class: Class(j.Class),
		AcceptedAt: Time(j.AcceptedAt), ToldAt: Time(j.ToldAt), Cpus: j.CPUs, MemoryBytes: j.MemoryBytes}
}

// ToHostJob reads one.
func ToHostJob(m *nimbusv1.HostJob) nimbus.HostJob {
	return nimbus.HostJob{HostID: m.GetHostId(), JobID: m.GetJobId(), OrgID: m.GetOrgId(), AttemptID: m.GetAttemptId(), Name: m.GetName(), Repo: m.GetRepo(),
		Class: ToClass(m.GetClass()), AcceptedAt: ToTime(m.GetAcceptedAt()), ToldAt: ToTime(m.GetToldAt()), CPUs: m.GetCpus(), MemoryBytes: m.GetMemoryBytes()}
}
