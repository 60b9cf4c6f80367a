package netslot

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot/dnsguard"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot/dnsguard/dnstest"
)

// resolve has a manager ask a double, and nobody else.
func (m *Manager) resolve(s *dnstest.Server) { m.cfg.Resolvers = []string{s.Addr} }

// look asks the guest's resolver for a name.
func (g guest) look(server, name string) ([]string, error) {
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (conn net.Conn, err error) {
		err = within(g.ns, func() error {
			var d net.Dialer
			conn, err = d.DialContext(ctx, network, net.JoinHostPort(server, "53"))
			return err
		})
		return conn, err
	}}
	ctx, cancel := context.WithTimeout(g.t.Context(), 20*time.Second)
	defer cancel()
	return r.LookupHost(ctx, name+".")
}

func (g guest) finds(name string, want ...string) {
	g.t.Helper()
	if got, err := g.look(Gateway.String(), name); err != nil || !slices.Equal(got, want) {
		g.t.Errorf("%s: %v, %v", name, got, err)
	}
}

func (g guest) misses(name string) {
	g.t.Helper()
	if got, err := g.look(Gateway.String(), name); err == nil {
		g.t.Errorf("%s: %v", name, got)
	}
}

func names(t *testing.T) *dnstest.Server {
	t.Helper()
	return dnstest.Serve(t, map[string][]string{
		"ok.example.com":     {"A 5.255.254.2"},
		"rebind.example.com": {"A 10.255.254.2"},
		"dns.example.com":    {"A " + otherPublic},
		"evil.net":           {"A " + otherPublic},
	})
}

// refused is what a slot's guest was refused, in words.
func refused(t *testing.T, m *Manager, id string) []string {
	t.Helper()
	list, err := m.Refused(id)
	check(t, err)
	var out []string
	for _, r := range list {
		out = append(out, r.String())
	}
	return out
}

func TestProfileNames(t *testing.T) {
	target := greet(t, host(t), "0", "host")
	m := manager(t, Relay{Port: 9000, Target: "127.0.0.1:" + target})
	m.resolve(names(t))
	public, private, hostAddress := world(t)
	outside, err := netns.GetFromName(fmt.Sprintf("nbtest-%d-world", os.Getpid()))
	check(t, err)
	defer outside.Close()
	greet(t, outside, "53", "dns")
	greet(t, outside, "853", "dot")
	g := slot(t, m, "names", reaching("*.example.com"))

	g.reaches("172.16.0.1:9000", "host")
	g.fenced(public) // nobody asked for its name yet
	g.finds("ok.example.com", "5.255.254.2")
	g.reaches(public, "world")
	g.misses("evil.net")
	g.misses("rebind.example.com")
	for _, away := range []string{
		otherPublic + ":8080", private, hostAddress + ":" + target, "169.254.169.254:80", "172.16.0.1:" + target, "172.16.0.1:22",
	} {
		g.fenced(away)
	}
	// A name that is let through is no way around the guard.
	g.finds("dns.example.com", otherPublic)
	g.reaches(otherPublic+":8080", "world")
	for _, port := range []string{"53", "853"} {
		g.fenced(otherPublic + ":" + port)
	}

	told := strings.Join(refused(t, m, "names"), "\n")
	for _, want := range []string{
		" to 169.254.169.254:80", " to 172.16.0.1:22", " to " + private, " to " + public, " to " + otherPublic + ":853",
		"1 question for the name rebind.example.com: it stands for addresses that are not public",
		"for the name evil.net: the job did not ask to reach this name",
	} {
		if !strings.Contains(told, want) {
			t.Errorf("it is not told %q:\n%s", want, told)
		}
	}
}

// TestNamesStayOpen asks again for a name whose address is about to be closed.
func TestNamesStayOpen(t *testing.T) {
	m := manager(t)
	m.resolve(names(t))
	public, _, _ := world(t)
	g := slot(t, m, "stay", reaching("ok.example.com"))
	ns, err := netns.GetFromPath(m.path("stay"))
	check(t, err)
	defer ns.Close()
	check(t, within(ns, func() error {
		return nft(t.Context(), "add element inet fence named { 5.255.254.2 timeout 60s }\n")
	}))
	for range 2 {
		g.finds("ok.example.com", "5.255.254.2")
		g.reaches(public, "world")
	}
	c, err := nftables.New(nftables.WithNetNSFd(int(ns)))
	check(t, err)
	open, err := c.GetSetElements(&nftables.Set{Table: slotTable, Name: namedSet})
	check(t, err)
	if len(open) != 1 || open[0].Expires < dnsguard.MaxTTL {
		t.Errorf("open for %v", open)
	}
}

// TestAdoptedNames gives the slot to the next agent: it answers the same names.
func TestAdoptedNames(t *testing.T) {
	m := manager(t)
	m.resolve(names(t))
	public, _, _ := world(t)
	g := slot(t, m, "heir", reaching("ok.example.com"))
	m.doors["heir"].close() // as if the process had ended
	next := manager(t)
	next.resolve(names(t))
	s, err := next.Adopt("heir")
	if err != nil || s.Resolver != Gateway {
		t.Fatalf("%+v, %v", s, err)
	}
	g.misses("evil.net")
	g.fenced(otherPublic + ":8080")
	g.finds("ok.example.com", "5.255.254.2")
	g.reaches(public, "world")
	check(t, next.Remove(t.Context(), "heir"))
}

// TestInternetNames asks for names that stand for what is inside.
func TestInternetNames(t *testing.T) {
	m := manager(t)
	m.resolve(names(t))
	g := slot(t, m, "all", internet)
	g.finds("evil.net", otherPublic)
	g.misses("rebind.example.com")
}

// TestForgedFrames sends under another MAC, under another address, and asks for
// neighbours over IPv6.
func TestForgedFrames(t *testing.T) {
	m := manager(t)
	public, _, _ := world(t)
	g := slot(t, m, "liar", internet)
	g.reaches(public, "world")
	check(t, within(g.ns, func() error {
		check(t, sysctl("net/ipv6/conf/eth0/disable_ipv6", "0"))
		link, err := netlink.LinkByName("eth0")
		check(t, err)
		six, err := netlink.ParseAddr("fd00::2/64")
		check(t, err)
		six.Flags = 0x2 // no question whether somebody else has it
		check(t, netlink.AddrAdd(link, six))
		_, err = net.DialTimeout("tcp6", "[fd00::1]:80", time.Second)
		if err == nil {
			t.Error("reached over IPv6")
		}
		mac, err := net.ParseMAC("02:fc:00:00:00:99")
		check(t, err)
		return netlink.LinkSetHardwareAddr(link, mac)
	}))
	g.fenced(public)
	var kinds []executor.RefusalKind
	list, err := m.Refused("liar")
	check(t, err)
	for _, r := range list {
		kinds = append(kinds, r.Kind)
	}
	for _, want := range []executor.RefusalKind{executor.RefusedForged, executor.RefusedIPv6} {
		if !slices.Contains(kinds, want) {
			t.Errorf("%s is not told: %v", want, list)
		}
	}
}

// TestRefusedIsBounded tries more than the fence remembers one by one.
func TestRefusedIsBounded(t *testing.T) {
	m := manager(t)
	g := slot(t, m, "scanner", none)
	const ports = 300
	check(t, within(g.ns, func() error {
		for port := range ports {
			conn, err := net.Dial("udp4", fmt.Sprintf("10.1.1.1:%d", 1000+port))
			check(t, err)
			conn.Write([]byte("x"))
			conn.Close()
		}
		return nil
	}))
	g.fenced("10.1.1.2:80") // what came before it has been counted
	list, err := m.Refused("scanner")
	check(t, err)
	var sum uint64
	for _, r := range list {
		sum += r.Count
	}
	if len(list) > 260 || sum < ports {
		t.Errorf("%d kinds with %d packets", len(list), sum)
	}
	if i := slices.IndexFunc(list, func(r executor.Refusal) bool { return r.Kind == executor.RefusedOther }); i < 0 {
		t.Errorf("what is beyond the bound is not told: %v", list)
	}
}
