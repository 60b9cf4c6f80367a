package executor

import "testing"

func TestRefusalInWords(t *testing.T) {
	t.Parallel()
	for want, r := range map[string]Refusal{
		"3 connections to 169.254.169.254:80":                     {Kind: RefusedTCP, Target: "169.254.169.254:80", Count: 3},
		"1 datagram to 1.1.1.1:53":                                {Kind: RefusedUDP, Target: "1.1.1.1:53", Count: 1},
		"2 questions for the name evil.com: it was not asked for": {Kind: RefusedName, Target: "evil.com", Why: "it was not asked for", Count: 2},
		"9 questions for other names":                             {Kind: RefusedName, Count: 9},
		"1 packet with an address that is not the sandbox' own":   {Kind: RefusedForged, Count: 1},
		"2 packets of IPv6, which sandboxes don't have":           {Kind: RefusedIPv6, Count: 2},
		"2 packets beyond what one sandbox may send":              {Kind: RefusedFlood, Count: 2},
		"4 packets to other addresses":                            {Kind: RefusedOther, Count: 4},
	} {
		if got := r.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
