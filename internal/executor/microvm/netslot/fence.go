package netslot

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/inside"
)

// nftTimeout bounds the loading of rules: the kernel takes milliseconds.
const nftTimeout = 20 * time.Second

// dnsPort is where a slot with a way out has its resolver.
const dnsPort = 53

// insideSet is the elements of the set of all that is not for guests.
func insideSet() string {
	var set []string
	for _, prefix := range inside.IPv4() {
		set = append(set, prefix.String())
	}
	return strings.Join(set, ", ")
}

// public tells whether guests may reach an address. They have no IPv6.
func public(a netip.Addr) bool { return a.Is4() && !inside.Has(a) }

// Names of what the agent reads and writes in a slot's rules.
const (
	tableName    = "fence"
	namedSet     = "named"   // addresses of names that were answered
	refusedSet   = "refused" // what was tried in vain: address, protocol, port
	refusals     = "refusals"
	floods       = "floods"
	forgeries    = "forgeries"
	versionSixes = "sixes"
)

// slotRules are the rules inside a slot. Words with a dollar are replaced.
//
// A frame meets the first table as it leaves the guest, before anything else
// looks at it: who sends in another's name, or speaks anything but IPv4 and
// ARP, is not heard. Then routing decides: what is for the gateway meets
// "enter", what is for the world meets "pass".
//
//nolint:dupword // they are nft's words
const slotRules = `
table netdev fence {
	counter forgeries { }
	counter floods { }
	counter sixes { }
	chain tap {
		type filter hook ingress device "$tap" priority 0; policy drop;
		limit rate over 100000/second burst 20000 packets counter name floods drop
		ether saddr != $mac counter name forgeries drop
		ether type ip ip saddr $guest accept
		ether type ip ip saddr 0.0.0.0 drop
		ether type ip counter name forgeries drop
		arp saddr ip $guest arp saddr ether $mac limit rate 50/second burst 50 packets accept
		arp saddr ip { $guest, 0.0.0.0 } drop
		ether type arp counter name forgeries drop
		ether type ip6 icmpv6 type nd-neighbor-solicit ip6 saddr != :: counter name sixes drop
	}
}
table inet fence {
	set inside {
		type ipv4_addr; flags interval;
		elements = { $inside }
	}
	set named {
		type ipv4_addr; flags timeout; size 4096;
	}
	set refused {
		type ipv4_addr . inet_proto . inet_service; flags dynamic; size 256; counter;
	}
	counter refusals { }
	counter floods { }
	chain pass {
		type filter hook forward priority 0; policy drop;
		ct state established,related accept
		iifname != "$tap" drop
		ip saddr != $guest drop
		ip daddr @inside goto refuse
		limit rate over 200/second burst 500 packets goto flood
		ct count over 4096 goto flood
		$out
		goto refuse
	}
	chain enter {
		type filter hook input priority 0; policy drop;
		iifname "lo" accept
		ct state established,related accept
		iifname != "$tap" drop
		ip saddr != $guest drop
		ip daddr != $gateway goto refuse
		limit rate over 400/second burst 800 packets goto flood
		ct count over 4096 goto flood
		$doors
		icmp type echo-request accept
		goto refuse
	}
	$closed
	chain refuse {
		meta l4proto { tcp, udp } update @refused { ip daddr . meta l4proto . th dport }
		counter name refusals reject with icmp type admin-prohibited
	}
	chain flood {
		counter name floods reject with icmp type admin-prohibited
	}
}
$nat`

// closedRules are for a slot that forwards nothing: there is no way on which
// what is tried would meet the fence, which is to refuse it at once and count it.
const closedRules = `chain closed {
		type filter hook prerouting priority 0; policy accept;
		iifname "$tap" ip daddr != $gateway goto refuse
	}`

// natRules let what leaves a slot have the slot's own address.
const natRules = `table ip nat {
	chain out {
		type nat hook postrouting priority 100;
		oifname "$up" masquerade
	}
}
`

// outRules let out what a profile allows. Names have their resolver at the
// gateway and no other: what is let through for a name is no way around it.
func outRules(profile nimbus.NetworkProfile) string {
	switch profile {
	case nimbus.NetworkInternet:
		return `oifname "$up" accept`
	case nimbus.NetworkNames:
		return `oifname "$up" ip daddr @named meta l4proto { tcp, udp } th dport != { 53, 853 } accept
		oifname "$up" ip daddr @named icmp type echo-request accept`
	default:
		return ""
	}
}

// fence is the rules inside a slot.
func fence(ports []uint16, profile nimbus.NetworkProfile) string {
	var tcp []string
	for _, p := range ports {
		tcp = append(tcp, strconv.Itoa(int(p)))
	}
	var doors, nat string
	closed := closedRules
	if wayOut(profile) {
		closed = ""
		tcp = append(tcp, strconv.Itoa(dnsPort))
		doors = fmt.Sprintf("udp dport %d accept\n\t\t", dnsPort)
		nat = natRules
	}
	if slices.Sort(tcp); len(tcp) > 0 {
		doors += "tcp dport { " + strings.Join(slices.Compact(tcp), ", ") + " } accept"
	}
	rules := strings.NewReplacer("$out", outRules(profile), "$doors", doors, "$nat", nat, "$closed", closed).Replace(slotRules)
	return strings.NewReplacer("$tap", TapName, "$up", upName, "$mac", GuestMAC, "$guest", Guest.Addr().String(),
		"$gateway", Gateway.String(), "$inside", insideSet()).Replace(rules)
}

// wayOut tells whether a profile has one, and a resolver with it. What is not
// known has none.
func wayOut(p nimbus.NetworkProfile) bool {
	return p == nimbus.NetworkInternet || p == nimbus.NetworkNames
}

// hostTable is the name of the rules on the host.
const hostTable = "inet nimbus"

// hostFence is the rules on the host, the same for every slot of every agent:
// out to public addresses and back, never to the host or another slot. An
// address that is not the uplink's own can't have come from it.
func hostFence() string {
	return fmt.Sprintf(`table %[1]s
delete table %[1]s
table %[1]s {
	set inside {
		type ipv4_addr; flags interval;
		elements = { %[2]s }
	}
	chain enter {
		type filter hook input priority -10;
		iifname %[3]q drop
	}
	chain pass {
		type filter hook forward priority -10;
		iifname %[3]q meta nfproto ipv6 drop
		iifname %[3]q fib saddr . iif oif missing drop
		iifname %[3]q oifname %[3]q drop
		oifname %[3]q ct state != { established, related } drop
		iifname %[3]q ip daddr @inside drop
	}
	chain out {
		type nat hook postrouting priority 90;
		ip saddr %[4]s oifname != %[3]q masquerade
	}
}
`, hostTable, insideSet(), uplinkPrefix+"*", uplinkPool)
}

func nftProgram() (string, error) {
	path, err := exec.LookPath("nft")
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/nft")
	}
	return path, err
}

// nft loads rules into the calling thread's network namespace.
func nft(ctx context.Context, rules string) error {
	program, err := nftProgram()
	if err != nil {
		return fmt.Errorf("load rules: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, nftTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("load rules: nft: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return nil
}
