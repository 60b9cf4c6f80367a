package nimbus

import "strings"

// Check tells whether a job can be run as it says. Codes: invalid, too_large.
func (s Spec) Check() error {
	size := 0
	for _, arg := range s.Command {
		if strings.ContainsRune(arg, 0) {
			return Errorf(CodeInvalid, "the argument %q holds a NUL character, which no process can be given", clip(arg))
		}
		size += len(arg) + 1
	}
	for key, value := range s.Env {
		if key == "" || strings.ContainsAny(key, "=\x00") {
			return Errorf(CodeInvalid, "%q can't be the name of an environment variable", clip(key))
		}
		if strings.ContainsRune(value, 0) { // the value may be a secret: it is not told
			return Errorf(CodeInvalid, "the value of the variable %q holds a NUL character, which no process can be given", clip(key))
		}
		size += len(key) + len(value) + 2
	}
	switch {
	case len(s.Command) == 0 || s.Command[0] == "":
		return Errorf(CodeInvalid, "there is no command to run").WithHint("nimbus run -- make test")
	case size > MaxCommandBytes:
		return Errorf(CodeTooLarge, "command and environment have %d bytes, at most %d are taken", size, MaxCommandBytes)
	case s.Timeout < 0 || s.Timeout > MaxTimeout:
		return Errorf(CodeInvalid, "a timeout is at most %v, not %v", MaxTimeout, s.Timeout)
	case s.QueueTimeout < 0 || s.QueueTimeout > MaxQueueTimeout:
		return Errorf(CodeInvalid, "a queue timeout is at most %v, not %v", MaxQueueTimeout, s.QueueTimeout)
	case s.Hold < 0 || s.Hold > MaxHold:
		return Errorf(CodeInvalid, "a sandbox is held for at most %v, not %v", MaxHold, s.Hold)
	case s.WorkspaceID != "" && !isSHA256(s.WorkspaceID):
		return Errorf(CodeInvalid, "%q is not the id of a workspace", clip(s.WorkspaceID)).
			WithHint("upload it by PUT /api/v1/workspaces, which answers its id")
	}
	return nil
}

func isSHA256(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}
