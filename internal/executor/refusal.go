package executor

import (
	"context"
	"fmt"
)

// Fenced is a Sandbox that has a network with a fence around it.
type Fenced interface {
	// Refused is what the job tried to reach and may not, so far: bounded, and
	// added up. It can be asked until Destroy.
	Refused(ctx context.Context) ([]Refusal, error)
}

// Refusal is something that a sandbox tried to reach and may not.
type Refusal struct {
	Kind   RefusalKind
	Target string // address and port, or a name; "" for what can't be told apart
	Why    string // of a name
	Count  uint64
}

// RefusalKind is what was tried.
type RefusalKind string

// The kinds.
const (
	RefusedTCP    RefusalKind = "tcp"    // a connection
	RefusedUDP    RefusalKind = "udp"    // a datagram
	RefusedOther  RefusalKind = "other"  // a packet of another kind, or for which there was no room in the list
	RefusedName   RefusalKind = "name"   // a name was asked for
	RefusedForged RefusalKind = "forged" // a packet in another's name
	RefusedIPv6   RefusalKind = "ipv6"   // somebody was looked for over IPv6
	RefusedFlood  RefusalKind = "flood"  // more at once than one sandbox may
)

// String is the refusal in words that follow "refused".
func (r Refusal) String() string {
	switch r.Kind {
	case RefusedTCP:
		return fmt.Sprintf("%s to %s", some(r.Count, "connection"), r.Target)
	case RefusedUDP:
		return fmt.Sprintf("%s to %s", some(r.Count, "datagram"), r.Target)
	case RefusedName:
		if r.Target == "" {
			return some(r.Count, "question") + " for other names"
		}
		return fmt.Sprintf("%s for the name %s: %s", some(r.Count, "question"), r.Target, r.Why)
	case RefusedForged:
		return some(r.Count, "packet") + " with an address that is not the sandbox' own"
	case RefusedIPv6:
		return some(r.Count, "packet") + " of IPv6, which sandboxes don't have"
	case RefusedFlood:
		return some(r.Count, "packet") + " beyond what one sandbox may send"
	default:
		return some(r.Count, "packet") + " to other addresses"
	}
}

func some(n uint64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
