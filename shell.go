package nimbus

import (
	"slices"
	"strings"
	"time"
)

// Bounds of shells.
const (
	// MaxShellFor is how long a shell may be open, and MaxShellIdle how long
	// nothing may pass.
	MaxShellFor  = time.Hour
	MaxShellIdle = 15 * time.Minute
	// MaxShellsPerJob is how many may be open at once in one job, MaxShellsPerOrg
	// in all jobs of an org.
	MaxShellsPerJob = 4
	MaxShellsPerOrg = 64
	// MaxShellCommand bounds a command in bytes, MaxWindow a terminal's sides.
	MaxShellCommand = 64 << 10
	MaxWindow       = 1000
	maxTermBytes    = 64
	// MaxHold is how long a sandbox may stay after its job has failed.
	MaxHold = 4 * time.Hour
)

// ShellState is where a shell is in its life.
type ShellState string

// The states: nobody has come for it, its host has, it is over.
const (
	ShellWaiting ShellState = "waiting"
	ShellOpen    ShellState = "open"
	ShellEnded   ShellState = "ended"
)

// ShellReason is a stable word for why a shell ended.
type ShellReason string

// The reasons.
const (
	ShellExited       ShellReason = "exited"        // its process ended by itself
	ShellClosed       ShellReason = "closed"        // who opened it closed it
	ShellExpired      ShellReason = "expired"       // it was open for as long as it may be
	ShellIdle         ShellReason = "idle"          // nothing passed for too long
	ShellUserGone     ShellReason = "user_gone"     // who opened it was not heard of any more
	ShellHostGone     ShellReason = "host_gone"     // its host was not, or never came
	ShellJobEnded     ShellReason = "job_ended"     // its sandbox is no more, or its lease is not the host's
	ShellAgentStopped ShellReason = "agent_stopped" // the host's agent stopped or was started anew
	ShellRefused      ShellReason = "refused"       // the sandbox did not begin it
)

// ShellReasons are all of them.
func ShellReasons() []ShellReason {
	return []ShellReason{ShellExited, ShellClosed, ShellExpired, ShellIdle, ShellUserGone, ShellHostGone, ShellJobEnded, ShellAgentStopped, ShellRefused}
}

// Window is the size of a terminal; the zero one is none.
type Window struct{ Rows, Columns int }

// ShellSpec is what a shell runs.
type ShellSpec struct {
	Command  []string `json:",omitempty"` // none: an interactive shell of the image
	Terminal Window   `json:",omitzero"`  // zero: no terminal, stdout and stderr are told apart
	Term     string   `json:",omitempty"` // the terminal's kind
}

// Check tells whether a shell can be like this. Codes: invalid, too_large.
func (s ShellSpec) Check() error {
	size := 0
	for _, arg := range s.Command {
		if strings.ContainsRune(arg, 0) {
			return Errorf(CodeInvalid, "an argument holds a NUL character, which no process can be given")
		}
		size += len(arg) + 1
	}
	switch {
	case size > MaxShellCommand:
		return Errorf(CodeTooLarge, "the command has %d bytes, at most %d are taken", size, MaxShellCommand)
	case len(s.Command) > 0 && s.Command[0] == "":
		return Errorf(CodeInvalid, "the command is empty")
	case len(s.Term) > maxTermBytes || strings.ContainsFunc(s.Term, func(r rune) bool { return r <= ' ' || r > '~' }):
		return Errorf(CodeInvalid, "%q is no kind of terminal", clip(s.Term))
	case s.Terminal != Window{}:
		return s.Terminal.Check()
	case len(s.Command) == 0:
		return Errorf(CodeInvalid, "there is neither a terminal nor a command").WithHint("nimbus shell JOB -- COMMAND")
	}
	return nil
}

// Check tells whether a terminal can be of this size. Codes: invalid.
func (w Window) Check() error {
	if w.Rows < 1 || w.Columns < 1 || w.Rows > MaxWindow || w.Columns > MaxWindow {
		return Errorf(CodeInvalid, "a terminal of %d rows and %d columns can't be: each is 1 to %d", w.Rows, w.Columns, MaxWindow)
	}
	return nil
}

// ShellEnd is how a shell ended.
type ShellEnd struct {
	Code    *int   // nil unless its process was seen to end by itself
	Signal  string // that ended the process
	Reason  ShellReason
	Message string // what a person reads
}

// Clipped is an end as it can be kept, whoever told it.
func (e ShellEnd) Clipped() ShellEnd {
	if !slices.Contains(ShellReasons(), e.Reason) {
		e.Reason = ShellRefused
	}
	if e.Code != nil {
		code := *e.Code & 0xff
		e.Code = &code
	}
	e.Signal, e.Message = clipTo(16, e.Signal), clipTo(500, strings.ToValidUTF8(e.Message, "\ufffd"))
	return e
}

// Shell is one that was opened in a job.
type Shell struct {
	ID        string
	OrgID     string
	JobID     string
	AttemptID string
	HostID    string
	Actor     string // who opened it, as Principal.Actor tells it
	From      string // the address that it was opened from
	Spec      ShellSpec
	State     ShellState
	OpenedAt  time.Time
	EndsAt    time.Time // at the latest
	EndedAt   time.Time
	End       ShellEnd // set once ended
	// RecordedLines are those of its recording, the head included.
	RecordedLines int64
}

// RecordingKey is that of the log which a shell's recording is.
func (s Shell) RecordingKey() LogKey { return LogKey{OrgID: s.OrgID, AttemptID: s.ID} }
