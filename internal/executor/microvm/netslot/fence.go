package netslot

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// nftTimeout bounds the loading of rules: the kernel takes milliseconds.
const nftTimeout = 20 * time.Second

// dnsPort is where a slot with a way out has its resolver.
const dnsPort = 53

// inside are all IPv4 addresses that are not public, by the registry of special
// purposes (RFC 6890 and its updates). Among them are every private network,
// link-local addresses with the metadata services of clouds, and shared space.
var inside = []string{
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
	"192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
	"198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3",
}

// fence is the rules inside a slot.
func fence(ports []uint16, internet bool) string {
	var tcp []string
	for _, p := range ports {
		tcp = append(tcp, strconv.Itoa(int(p)))
	}
	var dns, out, nat string
	if internet {
		tcp = append(tcp, strconv.Itoa(dnsPort))
		dns = fmt.Sprintf("udp dport %d accept", dnsPort)
		out = fmt.Sprintf("iifname %q oifname %q accept", TapName, upName)
		nat = fmt.Sprintf(`table ip nat {
	chain out {
		type nat hook postrouting priority 100;
		oifname %q masquerade
	}
}
`, upName)
	}
	var doors string
	if slices.Sort(tcp); len(tcp) > 0 {
		doors = "tcp dport { " + strings.Join(slices.Compact(tcp), ", ") + " } accept"
	}
	return fmt.Sprintf(`table inet fence {
	set inside {
		type ipv4_addr; flags interval;
		elements = { %[1]s }
	}
	chain pass {
		type filter hook forward priority 0; policy drop;
		ct state established,related accept
		iifname %[2]q ip saddr != %[3]s drop
		iifname %[2]q ip daddr @inside reject with icmp type admin-prohibited
		%[4]s
		iifname %[2]q reject with icmp type admin-prohibited
	}
	chain enter {
		type filter hook input priority 0; policy drop;
		iifname "lo" accept
		ct state established,related accept
		iifname %[2]q ip saddr %[3]s ip daddr %[5]s jump gateway
	}
	chain gateway {
		%[6]s
		%[7]s
		icmp type echo-request accept
		reject with icmp type port-unreachable
	}
}
%[8]s`, strings.Join(inside, ", "), TapName, Guest.Addr(), out, Gateway, doors, dns, nat)
}

// hostTable is the name of the rules on the host.
const hostTable = "inet nimbus"

// hostFence is the rules on the host, the same for every slot of every agent:
// out to public addresses and back, never to the host or another slot.
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
		iifname %[3]q oifname %[3]q drop
		oifname %[3]q ct state != { established, related } drop
		iifname %[3]q ip daddr @inside drop
	}
	chain out {
		type nat hook postrouting priority 90;
		ip saddr %[4]s oifname != %[3]q masquerade
	}
}
`, hostTable, strings.Join(inside, ", "), uplinkPrefix+"*", uplinkPool)
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
