// Package inside tells the addresses of the internet from all others: those of
// private networks, of this machine, of the metadata services of clouds. It is
// what the fence of sandboxes goes by, and whoever asks on a host for something
// that a job has named.
package inside

import (
	"net/netip"
	"slices"
)

// special4 are all IPv4 addresses that are not public, by the registry of special
// purposes (RFC 6890 and its updates). Among them are every private network,
// link-local addresses with the metadata services of clouds, and shared space.
var special4 = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
	"192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
	"198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3",
)

// cloud4 are addresses that clouds have given services of the host: the metadata
// of one, the platform agent of another. The first is public by its number.
var cloud4 = prefixes("168.63.129.16/32", "100.100.100.200/32")

// public6 is what of IPv6 is given out, and special6 what of that is no host's:
// protocols (Teredo among them), documentation, and tunnels to IPv4 addresses
// that nobody looked at.
var (
	public6  = netip.MustParsePrefix("2000::/3")
	special6 = prefixes("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
	// translated6 has an IPv4 address in its last bytes (RFC 6052).
	translated6 = netip.MustParsePrefix("64:ff9b::/96")
)

func prefixes(texts ...string) []netip.Prefix {
	list := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		list[i] = netip.MustParsePrefix(text)
	}
	return list
}

// Has tells whether an address is not one of the internet. The zero Addr is not.
func Has(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	switch {
	case a.Is4():
		return within(special4, a) || within(cloud4, a)
	case translated6.Contains(a):
		bytes := a.As16()
		return Has(netip.AddrFrom4([4]byte(bytes[12:])))
	default:
		return !public6.Contains(a) || within(special6, a)
	}
}

// IPv4 are the ranges of IPv4 addresses that Has tells of. None lies in another.
func IPv4() []netip.Prefix {
	list := slices.Clone(special4)
	for _, p := range cloud4 {
		if !within(special4, p.Addr()) {
			list = append(list, p)
		}
	}
	return list
}

func within(list []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
}
