package migrate

// Verdict is what becomes of a job.
type Verdict string

// The verdicts.
const (
	Moves   Verdict = "moves"   // its runs-on is rewritten
	Stays   Verdict = "stays"   // it needs what Nimbus doesn't have: left alone
	Already Verdict = "already" // it asks for Nimbus by now
	Calls   Verdict = "calls"   // it calls another workflow, which has runs-on of its own
)

// Note is what a person should know about a job.
type Note struct {
	Line    int    `json:"line"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// Job is one job of a workflow file.
type Job struct {
	ID      string  `json:"id"`
	Line    int     `json:"line"`
	Verdict Verdict `json:"verdict"`
	// Before and After are the text of runs-on; After is empty unless it moves.
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
	// Why it stays, and what differs where it moves.
	Notes []Note `json:"notes"`
}

// File is one workflow file, before and after.
type File struct {
	Path    string `json:"path"`
	Trouble string `json:"trouble,omitempty"` // why the file is left alone, with all of its jobs
	Jobs    []Job  `json:"jobs"`
	Before  []byte `json:"-"`
	After   []byte `json:"-"` // the same as Before where no job moves
}

// Changed tells whether there is something to write.
func (f File) Changed() bool { return string(f.Before) != string(f.After) }

// Size is what a job gets of a host that GitHub's runners would have given it.
type Size struct {
	CPUs      int
	MemoryGiB int
}

// DefaultSize is that of GitHub's standard Linux runner for private repositories.
var DefaultSize = Size{CPUs: 2, MemoryGiB: 8} //nolint:gochecknoglobals // a constant, but for the language
