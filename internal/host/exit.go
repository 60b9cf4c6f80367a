package host

import "github.com/nimbus-ci/nimbus"

// ExitUnknown is the exit code of an agent that the control plane does not know:
// EX_NOPERM of sysexits.h. Units say RestartPreventExitStatus=77, so that it is
// not started over and over: that is for an operator to mend.
const ExitUnknown = 77

// ExitCode is the exit code of an agent that ended with an error.
func ExitCode(err error) int {
	switch {
	case err == nil:
		return 0
	case nimbus.ErrorCode(err) == nimbus.CodeUnauthenticated:
		return ExitUnknown
	}
	return 1
}
