package wire

import (
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

var jobBuckets = map[nimbus.JobBucket]nimbusv1.JobBucket{
	nimbus.JobBucketHour: nimbusv1.JobBucket_JOB_BUCKET_HOUR,
	nimbus.JobBucketDay:  nimbusv1.JobBucket_JOB_BUCKET_DAY,
}

// JobBucket makes an enum value.
func JobBucket(b nimbus.JobBucket) nimbusv1.JobBucket { return jobBuckets[b] }

// ToJobBucket reads one, "" for an unknown one.
func ToJobBucket(b nimbusv1.JobBucket) nimbus.JobBucket {
	for k, v := range jobBuckets {
		if v == b {
			return k
		}
	}
	return ""
}

// Summary makes a message.
func Summary(s nimbus.Summary) *nimbusv1.SummarizeJobsResponse {
	out := &nimbusv1.SummarizeJobsResponse{Since: Time(s.Since), Until: Time(s.Until), Bucket: JobBucket(s.Bucket), CompleteSince: Time(s.CompleteSince),
		All: jobsOutcome(s.All), OtherValues: int32(s.OtherValues), OtherKeys: int32(s.OtherKeys)}
	if s.OtherValues > 0 {
		out.Other = jobsOutcome(s.Other)
	}
	for _, v := range s.Values {
		out.Values = append(out.Values, &nimbusv1.ValueOutcome{Value: asText(v.Value), Outcome: jobsOutcome(v.JobsOutcome)})
	}
	for _, k := range s.Keys {
		out.Keys = append(out.Keys, &nimbusv1.MetadataKey{Key: asText(k.Key), Jobs: int32(k.Jobs), Values: int32(k.Values)})
	}
	return out
}

// ToSummary reads one.
func ToSummary(m *nimbusv1.SummarizeJobsResponse) nimbus.Summary {
	s := nimbus.Summary{
		SummaryWindow: nimbus.SummaryWindow{Since: ToTime(m.GetSince()), Until: ToTime(m.GetUntil()), Bucket: ToJobBucket(m.GetBucket()), CompleteSince: ToTime(m.GetCompleteSince())},
		All:           toJobsOutcome(m.GetAll()), OtherValues: int(m.GetOtherValues()), Other: toJobsOutcome(m.GetOther()), OtherKeys: int(m.GetOtherKeys()),
	}
	for _, v := range m.GetValues() {
		s.Values = append(s.Values, nimbus.ValueOutcome{Value: v.GetValue(), JobsOutcome: toJobsOutcome(v.GetOutcome())})
	}
	for _, k := range m.GetKeys() {
		s.Keys = append(s.Keys, nimbus.MetadataKey{Key: k.GetKey(), Jobs: int(k.GetJobs()), Values: int(k.GetValues())})
	}
	return s
}

func jobsOutcome(o nimbus.JobsOutcome) *nimbusv1.JobsOutcome {
	out := &nimbusv1.JobsOutcome{Count: jobsCount(o.JobsCount), Runs: int32(o.Runs)}
	if o.Runs > 0 {
		out.P50, out.P95 = durationpb.New(o.P50), durationpb.New(o.P95)
	}
	for _, p := range o.Trend {
		out.Trend = append(out.Trend, &nimbusv1.TrendPart{StartAt: Time(p.Start), Count: jobsCount(p.JobsCount)})
	}
	return out
}

func toJobsOutcome(m *nimbusv1.JobsOutcome) nimbus.JobsOutcome {
	o := nimbus.JobsOutcome{JobsCount: toJobsCount(m.GetCount()), Runs: int(m.GetRuns()), P50: m.GetP50().AsDuration(), P95: m.GetP95().AsDuration()}
	for _, p := range m.GetTrend() {
		o.Trend = append(o.Trend, nimbus.TrendPart{Start: ToTime(p.GetStartAt()), JobsCount: toJobsCount(p.GetCount())})
	}
	return o
}

func jobsCount(c nimbus.JobsCount) *nimbusv1.JobsCount {
	return &nimbusv1.JobsCount{Jobs: int32(c.Jobs), Succeeded: int32(c.Succeeded), Failed: int32(c.Failed), Cancelled: int32(c.Cancelled), Open: int32(c.Open)}
}

func toJobsCount(m *nimbusv1.JobsCount) nimbus.JobsCount {
	return nimbus.JobsCount{Jobs: int(m.GetJobs()), Succeeded: int(m.GetSucceeded()), Failed: int(m.GetFailed()), Cancelled: int(m.GetCancelled()), Open: int(m.GetOpen())}
}
