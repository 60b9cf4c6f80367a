package nimbus

import "time"

// Stream is what wrote a line.
type Stream string

// The streams. A step line begins a step: its text is the step's name.
const (
	StreamStdout Stream = "stdout"
	StreamStderr Stream = "stderr"
	StreamSystem Stream = "system" // Nimbus itself, about the sandbox
	StreamStep   Stream = "step"
)

// MaxLineBytes is the longest line that is kept as one. A longer one becomes
// several lines, nothing is dropped.
const MaxLineBytes = 64 << 10

// Line is one line of a job's log. Order is by Seq, never by time.
type Line struct {
	Seq    int64 // from 1 within an attempt, without gaps
	At     time.Time
	Stream Stream
	Step   int32 // number of the step that wrote it, from 1; 0 before the first
	// Group is the innermost ::group:: that it is in, counted from 1 within an
	// attempt, 0 for none. The lines that begin and end a group are in it.
	Group int32
	Text  string
}

// LogKey names a log: one attempt of one job of one org, or the recording of a
// shell in one.
type LogKey struct {
	OrgID     string
	AttemptID string // or the shell's id
}
