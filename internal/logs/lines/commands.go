package lines

import "strings"

const (
	// maxStepName is the longest name of a step; the rest is cut.
	maxStepName = 256
	// maxDepth is how many groups may be in one another.
	maxDepth = 32
	// maxStopToken is the longest text that may end that commands are not followed.
	maxStopToken = 256
)

// kinds of commands that a job may write as a line: GitHub's workflow commands, as
// far as they concern its log, in the form that jobs write (::group::) and that in
// which GitHub's runner hands them on (##[group]). As by that runner they are taken
// from both streams: a tool that has its stdout for results writes them to stderr,
// and what it wants hidden would be shown there, by the command itself.
// https://docs.github.com/actions/reference/workflow-commands-for-github-actions
type commandKind int

const (
	commandNone commandKind = iota
	commandMask
	commandStep // Nimbus' own: begins a step, the rest is its name
	commandGroup
	commandEndGroup
)

type command struct {
	what  commandKind
	value string
}

// follow tells which command a line is, none while they are not followed.
func (s *Splitter) follow(text string) command {
	text = strings.TrimLeft(text, " \t")
	name, value, ok := cutCommand(text)
	if s.stopped != "" {
		switch {
		case name == "nimbus-step" && ok && s.runner: // GitHub's are stopped for a step
		case strings.TrimRight(text, " \t") == "::"+s.stopped+"::":
			s.stopped = ""
			return command{}
		default:
			return command{}
		}
	}
	if !ok {
		return command{}
	}
	switch name {
	case "add-mask":
		return command{what: commandMask, value: strings.TrimSpace(unescape(value))}
	case "nimbus-step":
		s.stopped = ""
		return command{what: commandStep, value: value}
	case "group":
		return command{what: commandGroup}
	case "endgroup":
		return command{what: commandEndGroup}
	case "stop-commands":
		if token := strings.TrimSpace(value); token != "" && len(token) <= maxStopToken {
			s.stopped = token
		}
	}
	return command{}
}

// cutCommand takes a line apart: "::name properties::value" or "##[name properties]value".
func cutCommand(text string) (name, value string, ok bool) {
	if rest, found := strings.CutPrefix(text, "::"); found {
		name, value, ok = strings.Cut(rest, "::")
	} else if rest, found := strings.CutPrefix(text, "##["); found {
		name, value, ok = strings.Cut(rest, "]")
	}
	name, _, _ = strings.Cut(name, " ")
	return strings.ToLower(name), value, ok
}

// unescape undoes what GitHub's toolkit does to values in commands.
func unescape(s string) string {
	return strings.NewReplacer("%0D", "\r", "%0A", "\n", "%25", "%").Replace(s)
}
