package nimbus

// RerunPolicy is what an org lets Nimbus ask of GitHub by itself: to run jobs
// again that were lost with their host or sandbox, never those that failed. The
// zero value is never.
type RerunPolicy struct {
	PerRun  int // how often at most for one workflow run
	PerHour int // for the whole org
}

// Bounds of a policy. GitHub runs a workflow run again 50 times at most.
const (
	MaxRerunsPerRun  = 10
	MaxRerunsPerHour = 1000
)

// On tells whether anything is run again at all.
func (p RerunPolicy) On() bool { return p.PerRun > 0 && p.PerHour > 0 }

// Check tells whether a policy can be set. Codes: invalid.
func (p RerunPolicy) Check() error {
	if p.PerRun < 0 || p.PerRun > MaxRerunsPerRun || p.PerHour < 0 || p.PerHour > MaxRerunsPerHour {
		return Errorf(CodeInvalid, "a run may be run again 0 to %d times, an org's 0 to %d times an hour", MaxRerunsPerRun, MaxRerunsPerHour)
	}
	return nil
}

// RerunUse is a policy, and what was done by it.
type RerunUse struct {
	RerunPolicy
	LastHour int // reruns that were asked for
	Waiting  int // runs that have yet to end before they can be run again
}

// ForgeRunState is how the latest attempt of a workflow run stands.
type ForgeRunState struct {
	Attempt int64
	Over    bool
	// Jobs are those of it by their ids, once it is over; All says that there
	// are no more.
	Jobs map[int64]ForgeRunJob
	All  bool
}

// ForgeRunJob is a job of a workflow run that is over.
type ForgeRunJob struct {
	Name, Conclusion string
}

// Failed tells whether it failed, or ran out of time.
func (j ForgeRunJob) Failed() bool { return j.Conclusion == "failure" || j.Conclusion == "timed_out" }

// Fine tells whether a run with only such jobs succeeds.
func (j ForgeRunJob) Fine() bool {
	return j.Conclusion == "success" || j.Conclusion == "skipped" || j.Conclusion == "neutral"
}

// Find finds a job by its id, or as what it is called in a later attempt: there
// GitHub may have given it another id. It is false where the name is that of
// several.
func (s ForgeRunState) Find(id int64, name string) (int64, ForgeRunJob, bool) {
	if j, ok := s.Jobs[id]; ok {
		return id, j, true
	}
	found, times := int64(0), 0
	for other, j := range s.Jobs {
		if j.Name == name {
			found, times = other, times+1
		}
	}
	return found, s.Jobs[found], times == 1
}
