package netslot

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus/internal/executor"
)

// The fence has more than one guard before most things. These tests take the
// others away, so that each is seen to hold by itself.

// without takes a rule out of a slot's fence.
func without(t *testing.T, ns netns.NsHandle, chain, rule string) {
	t.Helper()
	check(t, within(ns, func() error {
		out, err := exec.Command("nft", "-a", "list", "chain", "inet", tableName, chain).Output()
		check(t, err)
		found := regexp.MustCompile(regexp.QuoteMeta(rule) + `.*# handle (\d+)`).FindSubmatch(out)
		if found == nil {
			t.Fatalf("the chain %s has no rule %s:\n%s", chain, rule, out)
		}
		return nft(t.Context(), fmt.Sprintf("delete rule inet %s %s handle %s\n", tableName, chain, found[1]))
	}))
}

func inSlot(t *testing.T, m *Manager, id string) netns.NsHandle {
	t.Helper()
	ns, err := netns.GetFromPath(m.path(id))
	check(t, err)
	t.Cleanup(func() { ns.Close() })
	return ns
}

// count is how much of a kind was refused.
func count(t *testing.T, m *Manager, id string, kind executor.RefusalKind) (n uint64) {
	t.Helper()
	list, err := m.Refused(id)
	check(t, err)
	for _, r := range list {
		if r.Kind == kind {
			n += r.Count
		}
	}
	return n
}

// TestNobodyReachesIn has the host itself look for the guest and for the doors
// of its gateway, which are for the guest.
func TestNobodyReachesIn(t *testing.T) {
	target := greet(t, host(t), "0", "host")
	m := manager(t, Relay{Port: 9000, Target: "127.0.0.1:" + target})
	g := slot(t, m, "in", internet)
	ns := inSlot(t, m, "in")
	_, far := addresses(uplinkOf(t, m, "in"))
	door, inside := Gateway.String()+":9000", Guest.Addr().String()+":"+greet(t, g.ns, "0", "guest")
	for _, to := range []netip.Addr{Gateway, Guest.Addr()} {
		route := &netlink.Route{Dst: &net.IPNet{IP: to.AsSlice(), Mask: net.CIDRMask(32, 32)}, Gw: far.AsSlice()}
		check(t, netlink.RouteAdd(route))
		t.Cleanup(func() { netlink.RouteDel(route) })
	}
	outside := guest{t: t, ns: host(t)}
	fenced := func() {
		t.Helper()
		outside.fenced(door)
		outside.fenced(inside)
	}
	fenced()
	check(t, nft(t.Context(), "flush chain inet nimbus enter\n")) // it hears no answers otherwise
	fenced()
	for _, chain := range []string{"enter", "pass"} {
		without(t, ns, chain, `iifname != "`+TapName+`" drop`)
	}
	fenced()
	without(t, ns, "enter", "ip saddr != "+Guest.Addr().String())
	outside.reaches(door, "host") // so that it was these, and no want of a way
	without(t, ns, "pass", "ip saddr != "+Guest.Addr().String())
	outside.fenced(inside)
	without(t, ns, "pass", "ip daddr @inside")
	outside.fenced(inside)
	check(t, within(ns, func() error {
		return nft(t.Context(), "flush chain inet fence pass\nadd rule inet fence pass accept\n")
	}))
	outside.reaches(inside, "guest")
}

// TestTapAlone takes all away that is behind the guard of the tap: forged
// addresses, ARP in another's name and IPv6 get no further than that.
func TestTapAlone(t *testing.T) {
	m := manager(t)
	public, _, _ := world(t)
	g := slot(t, m, "tap", internet)
	ns := inSlot(t, m, "tap")
	check(t, within(ns, func() error {
		check(t, sysctl("net/ipv6/conf/all/disable_ipv6", "0"))
		check(t, sysctl("net/ipv6/conf/"+TapName+"/disable_ipv6", "0"))
		return addressSix(TapName, "fd00::1/64")
	}))
	check(t, within(g.ns, func() error {
		check(t, sysctl("net/ipv6/conf/eth0/disable_ipv6", "0"))
		return addressSix("eth0", "fd00::2/64")
	}))
	port := listenSix(t, ns)
	// They know each other, and need not ask: asking is refused besides.
	acquaint(t, g.ns, "eth0", "fd00::1", hardware(t, ns, TapName))
	acquaint(t, ns, TapName, "fd00::2", hardware(t, g.ns, "eth0"))
	check(t, within(ns, func() error {
		return nft(t.Context(), "flush chain inet fence enter\nflush chain inet fence pass\nadd rule inet fence enter accept\nadd rule inet fence pass accept\n")
	}))
	check(t, nft(t.Context(), "flush chain inet nimbus enter\nflush chain inet nimbus pass\n"))
	g.reaches(public, "world")

	before := count(t, m, "tap", executor.RefusedForged)
	check(t, within(g.ns, func() error {
		if conn, err := net.DialTimeout("tcp6", "[fd00::1]:"+port, time.Second); err == nil {
			conn.Close()
			t.Error("reached over IPv6")
		}
		return claim("eth0", Gateway)
	}))
	g.reaches(public, "world") // what came before it has been counted
	if got := count(t, m, "tap", executor.RefusedForged); got != before+1 {
		t.Errorf("of one ARP packet in the gateway's name %d were refused", got-before)
	}
	check(t, within(g.ns, func() error {
		check(t, address("eth0", netip.MustParseAddr("5.5.5.5"), 32))
		conn, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP("5.5.5.5")}}).Dial("udp4", public)
		check(t, err)
		defer conn.Close()
		_, err = conn.Write([]byte("x"))
		return err
	}))
	g.reaches(public, "world") // what came before it has been counted
	if got := count(t, m, "tap", executor.RefusedForged); got != before+2 {
		t.Errorf("of one forged packet %d were refused", got-before-1)
	}
}

func hardware(t *testing.T, ns netns.NsHandle, device string) (mac net.HardwareAddr) {
	t.Helper()
	check(t, within(ns, func() error {
		link, err := netlink.LinkByName(device)
		if err == nil {
			mac = link.Attrs().HardwareAddr
		}
		return err
	}))
	return mac
}

func acquaint(t *testing.T, ns netns.NsHandle, device, address string, mac net.HardwareAddr) {
	t.Helper()
	check(t, within(ns, func() error {
		link, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		return netlink.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, Family: netlink.FAMILY_V6, State: netlink.NUD_PERMANENT,
			IP: net.ParseIP(address), HardwareAddr: mac})
	}))
}

// addressSix gives a device an address of IPv6 at once.
func addressSix(device, prefix string) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	six, err := netlink.ParseAddr(prefix)
	if err != nil {
		return err
	}
	six.Flags = unix.IFA_F_NODAD
	return netlink.AddrAdd(link, six)
}

// listenSix listens over IPv6, and says nothing.
func listenSix(t *testing.T, ns netns.NsHandle) (port string) {
	t.Helper()
	var l net.Listener
	check(t, within(ns, func() (err error) {
		l, err = net.Listen("tcp6", "[::]:0")
		return err
	}))
	t.Cleanup(func() { l.Close() })
	_, port, err := net.SplitHostPort(l.Addr().String())
	check(t, err)
	return port
}

// claim sends an ARP packet that says that an address is the sender's.
func claim(device string, a netip.Addr) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	mac := link.Attrs().HardwareAddr
	frame := slices.Concat([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac, []byte{0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 2},
		mac, a.AsSlice(), []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, a.AsSlice())
	protocol := binary.NativeEndian.Uint16([]byte{0x08, 0x06})
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(protocol))
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: link.Attrs().Index})
}

// flows begins so many conversations that nobody answers.
func (g guest) flows(target string, n int) {
	g.t.Helper()
	check(g.t, within(g.ns, func() error {
		for range n {
			conn, err := net.Dial("udp4", target)
			if err != nil {
				return err
			}
			_, _ = conn.Write([]byte("x")) // refused for another one, it may be
			conn.Close()
		}
		return nil
	}))
}

// TestFloods begins more conversations than one machine may, at once and in all,
// with the world and with the gateway.
func TestFloods(t *testing.T) {
	m := manager(t)
	public, _, _ := world(t)
	for chain, target := range map[string]string{"pass": strings.Replace(public, ":8080", ":8081", 1), "enter": Gateway.String() + ":53"} {
		g := slot(t, m, chain, internet)
		ns := inSlot(t, m, chain)
		const tries = 20 // of a burst the cable loses some, and a busy machine makes none of it
		first := uint64(0)
		for range tries {
			g.flows(target, 2500)
			if first = count(t, m, chain, executor.RefusedFlood); first >= 500 {
				break
			}
		}
		if first < 500 {
			t.Errorf("%s: of 2500 at once, %d times, %d were too many", chain, tries, first)
		}
		without(t, ns, chain, "limit rate over")
		for range tries {
			if g.flows(target, 2500); count(t, m, chain, executor.RefusedFlood) > first+500 {
				break
			}
		}
		if got := count(t, m, chain, executor.RefusedFlood) - first; got <= 500 {
			t.Errorf("%s: however many there are in all, %d were too many", chain, got)
		}
	}
}

// TestTapFlood has the guest send more packets than its tap may: what is beyond
// the bound is dropped before anything looks at it.
func TestTapFlood(t *testing.T) {
	m := manager(t)
	if _, err := m.Create(t.Context(), "flood", none); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Remove(context.Background(), "flood"); err != nil {
			t.Error(err)
		}
	})
	tap := plug(t, inSlot(t, m, "flood"), TapName)
	t.Cleanup(func() { tap.Close() })
	// The rule after the bound counts each that gets there: they are in nobody's name.
	frame := append([]byte{0x02, 0, 0, 0, 0, 1, 0x02, 0xbb, 0, 0, 0, 2, 0x08, 0x00}, make([]byte, 46)...)
	const rate, burst = 100_000, 20_000
	const senders, each = 4, 100_000
	const slack, tries = rate / 20, 10
	for try := range tries {
		before := count(t, m, "flood", executor.RefusedForged)
		began := time.Now()
		var sent atomic.Uint64
		var all sync.WaitGroup
		for range senders {
			all.Go(func() {
				for range each {
					if _, err := tap.Write(frame); err == nil {
						sent.Add(1)
					}
				}
			})
		}
		all.Wait()
		took := time.Since(began)
		passed, dropped := count(t, m, "flood", executor.RefusedForged)-before, count(t, m, "flood", executor.RefusedFlood)
		t.Logf("%d packets in %s: %d passed the bound, %d were dropped", sent.Load(), took, passed, dropped)
		most := uint64(burst + rate*took.Seconds() + slack)
		if sent.Load() <= most && try < tries-1 {
			continue // the machine is busy with something else
		}
		switch {
		case sent.Load() <= most:
			t.Errorf("%d packets in %s are no flood", sent.Load(), took)
		case passed > most || dropped == 0:
			t.Errorf("of %d packets in %s %d passed, %d may", sent.Load(), took, passed, most)
		}
		return
	}
}
