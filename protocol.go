package nimbus

import "cmp"

// AgentProtocol is the version of what agents and servers say to each other. It
// grows with a release that changes what one of them expects of the other;
// fields that may be ignored don't change it.
//
//	1  before there were versions: an agent that tells none speaks it
//	2  agents tell their version
const AgentProtocol = 2

// CheckProtocol tells whether a server takes an agent that speaks a version:
// its own, the one before and the one after, so that servers and hosts can be
// upgraded one after the other, in any order. Codes: unsupported.
func CheckProtocol(agent, server int) error {
	agent = cmp.Or(agent, 1)
	switch {
	case agent < server-1:
		return Errorf(CodeUnsupported, "the host's agent is too old: it speaks version %d, this server %d to %d", agent, server-1, server+1).
			WithHint("install the server's release on the host")
	case agent > server+1:
		return Errorf(CodeUnsupported, "the host's agent is too new: it speaks version %d, this server %d to %d", agent, server-1, server+1).
			WithHint("upgrade the server first, one release at a time")
	}
	return nil
}
