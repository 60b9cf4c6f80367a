package inside_test

import (
	"net/netip"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/executor/inside"
)

func TestHas(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]bool{
		"127.0.0.1": true, "127.9.9.9": true, "0.0.0.0": true, "10.1.2.3": true, "172.31.255.255": true, "192.168.0.1": true,
		"169.254.169.254": true, "100.64.0.1": true, "100.100.100.200": true, "168.63.129.16": true, "224.0.0.1": true, "255.255.255.255": true,
		"172.32.0.1": false, "1.1.1.1": false, "168.63.129.17": false, "223.255.255.255": false,

		"::": true, "::1": true, "fe80::1": true, "fe80::1%eth0": true, "fc00::1": true, "fd00:ec2::254": true, "ff02::1": true,
		"2001:db8::1": true, "2002:7f00:1::": true, "2001::1": true, "3fff::1": true, "4000::1": true,
		"::ffff:127.0.0.1": true, "::ffff:1.1.1.1": false, "64:ff9b::10.0.0.1": true, "64:ff9b::1.1.1.1": false, "64:ff9b:1::1": true,
		"2606:4700::1111": false, "2a00:1450::1": false,
	} {
		if got := inside.Has(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
	if !inside.Has(netip.Addr{}) {
		t.Error("no address is taken for one of the internet")
	}
}

// TestIPv4 is what nft takes for a set: no range lies in another.
func TestIPv4(t *testing.T) {
	t.Parallel()
	list := inside.IPv4()
	for i, p := range list {
		if !inside.Has(p.Addr()) {
			t.Errorf("%s is not inside", p)
		}
		for _, other := range list[i+1:] {
			if p.Overlaps(other) {
				t.Errorf("%s and %s", p, other)
			}
		}
	}
}
