package firecracker

// Tests look at the jail, and talk to other ports than the agent's.
var (
	JailOf   = root
	DialPort = dialPort
)
