package httpapi

import (
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/nimbus-ci/nimbus"
)

// Origins say where requests may come from.
type Origins struct {
	// TrustedProxies are believed about whom they forward, by X-Forwarded-For.
	// None: who connects is who calls.
	TrustedProxies []netip.Prefix
	// Admin is from where the platform may be administered, metrics read and
	// profiles taken. None: from anywhere.
	Admin []netip.Prefix
}

// ParseOrigins reads ranges of addresses; one address is a range too. Codes:
// invalid.
func ParseOrigins(ranges []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range ranges {
		s = strings.TrimSpace(s)
		prefix, err := netip.ParsePrefix(s)
		if address, notPrefix := netip.ParseAddr(s); err != nil && notPrefix == nil && address.Zone() == "" {
			prefix, err = address.Prefix(address.BitLen())
		}
		if err != nil {
			return nil, nimbus.Errorf(nimbus.CodeInvalid, "%q is no range of addresses", s).
				WithHint("a range looks like 10.0.0.0/8 or 2001:db8::/32, an address like 192.0.2.7")
		}
		if prefix != prefix.Masked() {
			return nil, nimbus.Errorf(nimbus.CodeInvalid, "%q has bits beyond its length", s).WithHint("%s is the range around it", prefix.Masked())
		}
		out = append(out, prefix)
	}
	return out, nil
}

// address is who calls: who connects, or, of the chain that trusted proxies
// tell, the last one that is none of them. What stands left of that one, it may
// have made up.
func (o Origins) address(r *http.Request) netip.Addr {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	caller, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{} // a unix socket
	}
	caller = caller.Unmap().WithZone("")
	chain := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for len(chain) > 0 && within(caller, o.TrustedProxies) {
		last := strings.TrimSpace(chain[len(chain)-1])
		chain = chain[:len(chain)-1]
		before, err := netip.ParseAddr(last)
		if err != nil {
			return caller // it told nothing that can be read: it is all that is known
		}
		caller = before.Unmap().WithZone("")
	}
	return caller
}

// admit refuses what administers the platform from elsewhere.
func (o Origins) admit(r *http.Request) error {
	if len(o.Admin) == 0 {
		return nil
	}
	if caller := o.address(r); !within(caller, o.Admin) {
		return nimbus.Errorf(nimbus.CodeForbidden, "this may not be done from %s", caller).
			WithHint("the server's --admin-from says from where; behind a proxy it needs --trusted-proxy too")
	}
	return nil
}

func within(a netip.Addr, ranges []netip.Prefix) bool {
	for _, p := range ranges {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// ipv6Network is how much of an IPv6 address is one caller: who has one has all
// of its /64.
const ipv6Network = 64

// bucketOf is the name of a caller's bucket.
func bucketOf(a netip.Addr) string {
	if a.Is6() {
		if p, err := a.Prefix(ipv6Network); err == nil {
			return "address/" + p.String()
		}
	}
	return "address/" + a.String()
}
