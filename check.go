package nimbus

// CheckConclusion is what a check run says at a glance.
type CheckConclusion string

// The conclusions that Nimbus uses, by GitHub's words.
const (
	CheckActionRequired CheckConclusion = "action_required" // somebody has to do something
	CheckFailure        CheckConclusion = "failure"
	CheckNeutral        CheckConclusion = "neutral" // it was something, and is nothing any more
)

// Check is a check run at the commit of a job.
type Check struct {
	ID             int64 // of one that is to be changed; 0 for a new one
	Name           string
	Conclusion     CheckConclusion
	Title, Summary string // Summary is Markdown
	URL            string // for more; "" for none
}

// Says is the check as one text, to compare what was told with what is.
func (c Check) Says() string { return string(c.Conclusion) + ": " + c.Title + ": " + c.Summary }
