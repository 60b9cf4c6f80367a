package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/host"
)

// Exit codes. `nimbus run` ends with its job's own code; those from 70 on are
// far from what programs use and tell that there is none.
const (
	ExitOK             = 0
	ExitFailure        = 1
	ExitUsage          = 2
	ExitBroken         = 3
	ExitInfrastructure = 70
	ExitLost           = 71
	ExitTimedOut       = 72
	ExitCancelled      = 73
	ExitUnreachable    = 74
	ExitUnschedulable  = 75
	ExitUnknownHost    = host.ExitUnknown
	ExitSignal         = 128
	ExitInterrupted    = 130
)

// exitCodes is the table that the reference page shows.
var exitCodes = []struct {
	Code    string
	Meaning string
}{
	{"0", "done; `run`: the job's command ended with 0"},
	{"1", "failed, the message says why; `up --demo`: not every job ended as expected"},
	{"2", "the command line can't be understood; `up --demo`: not everything ended in time"},
	{"3", "`audit verify`: a chain is broken, the message names the first entry that is wrong"},
	{"any", "`run`: the exit code of the job's command"},
	{"70", "`run`: the job failed outside of its command: image, sandbox, host, files"},
	{"71", "`run`: the job is lost: its host went silent while it ran, nobody can know how it ended"},
	{"72", "`run`: the job ran or waited longer than it may"},
	{"73", "`run`: somebody cancelled the job"},
	{"74", "the server can't be reached, or went away and did not come back"},
	{"75", "`run`: no host can run this job; it was cancelled"},
	{"77", "`agent`: the control plane does not know this host (any more): it has to join, to start it again alone changes nothing"},
	{"128+N", "`run`: signal N ended the job's command, or had `run` cancel the job: SIGTERM, SIGHUP"},
	{"130", "interrupted with Ctrl-C"},
}

// exitError is an error with an exit code of its own. A nil err means that
// there is nothing to say.
type exitError struct {
	code  int
	err   error
	usage bool // the command line is wrong: show how it is written
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// badUsage is an error of whoever wrote the command line: nothing was done, and
// nothing was sent.
func badUsage(err error) error {
	var own *nimbus.Error
	if !errors.As(err, &own) {
		err = nimbus.Errorf(nimbus.CodeInvalid, "%w", err)
	}
	return &exitError{code: ExitUsage, err: err, usage: true}
}

// usageLine shows how a command is written; "" where none was named.
func (a *app) usageLine() string {
	if a.command == nil {
		return "nimbus <command> [flags]"
	}
	return "nimbus " + a.command.Summary()
}

// usageHint is where more is told of it.
func (a *app) usageHint() string {
	if a.command == nil {
		return "nimbus --help shows the commands"
	}
	return fmt.Sprintf("nimbus %s --help shows how it is used", a.command.Path())
}

// exitCode is the code for an error.
func exitCode(err error) int {
	var e *exitError
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &e):
		return e.code
	case errors.Is(err, client.ErrUnreachable):
		return ExitUnreachable
	case errors.Is(err, context.Canceled):
		return ExitInterrupted
	}
	return ExitFailure
}

// errorView is an error as --json writes it.
type errorView struct {
	Error struct {
		Code    nimbus.Code `json:"code"`
		Message string      `json:"message"`
		Hint    string      `json:"hint,omitempty"`
	} `json:"error"`
}

// fail tells a person, or a program, what went wrong and returns the exit code.
func (a *app) fail(err error) int {
	code := exitCode(err)
	var e *exitError
	if errors.As(err, &e) && e.err == nil {
		return code
	}
	usage := e != nil && e.usage
	if code == ExitInterrupted && e == nil {
		err = nimbus.Errorf(nimbus.CodeCancelled, "interrupted")
	}
	hint := nimbus.ErrorHint(err)
	if usage {
		hint = cmp.Or(hint, a.usageHint())
	}
	if a.root.JSON {
		var v errorView
		v.Error.Code, v.Error.Message, v.Error.Hint = nimbus.ErrorCode(err), err.Error(), hint
		_ = json.NewEncoder(a.Err).Encode(v) // stderr is gone: nobody to tell
		return code
	}
	fmt.Fprintf(a.Err, "%s %s\n", a.errStyle.Bad("nimbus:"), err)
	if usage {
		fmt.Fprintf(a.Err, "%s %s\n", a.errStyle.Quiet("usage:"), a.usageLine())
	}
	if hint != "" {
		fmt.Fprintf(a.Err, "%s %s\n", a.errStyle.Quiet("hint:"), hint)
	}
	return code
}
