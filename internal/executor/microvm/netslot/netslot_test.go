package netslot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go.uber.org/goleak"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func manager(t *testing.T, relays ...Relay) *Manager {
	t.Helper()
	testenv.Require(t, "root", "nft")
	return New(Config{Owner: "t" + strconv.Itoa(os.Getpid()), Relays: relays, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
}

// guest is what would be the microVM: a namespace behind the slot's tap.
type guest struct {
	t  *testing.T
	ns netns.NsHandle
}

// slot makes one and puts a guest behind it: a pair of devices takes the place
// of the tap, which nobody serves here.
func slot(t *testing.T, m *Manager, id string, p nimbus.NetworkProfile) guest {
	t.Helper()
	s, err := m.Create(t.Context(), id, p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Remove(context.Background(), id); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(s.Netns); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the namespace is left: %v", err)
		}
	})
	ns, err := netns.GetFromPath(s.Netns)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	g := guest{t: t, ns: namespace(t, id)}
	check(t, within(ns, func() error {
		tap, err := netlink.LinkByName(TapName)
		check(t, err)
		check(t, netlink.LinkDel(tap))
		check(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: TapName}, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(g.ns))}))
		return address(TapName, Gateway, Guest.Bits())
	}))
	check(t, within(g.ns, func() error {
		check(t, address("eth0", Guest.Addr(), Guest.Bits()))
		return netlink.RouteAdd(&netlink.Route{Gw: Gateway.AsSlice()})
	}))
	return g
}

func namespace(t *testing.T, name string) netns.NsHandle {
	t.Helper()
	name = fmt.Sprintf("nbtest-%d-%s", os.Getpid(), name)
	ns, err := newNamespace(name)
	check(t, err)
	t.Cleanup(func() {
		ns.Close()
		check(t, netns.DeleteNamed(name))
	})
	return ns
}

func address(device string, a netip.Addr, bits int) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	err = netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, 32)}})
	return errors.Join(err, netlink.LinkSetUp(link))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

// dial tries to connect from inside the guest and returns what the other side
// says first.
func (g guest) dial(target string, patience time.Duration) (string, error) {
	var conn net.Conn
	err := within(g.ns, func() error {
		var err error
		conn, err = net.DialTimeout("tcp4", target, patience)
		return err
	})
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	said, err := io.ReadAll(conn)
	return string(said), err
}

func (g guest) reaches(target, want string) {
	g.t.Helper()
	// A first packet may go missing while the devices come up.
	if said, err := g.dial(target, 10*time.Second); err != nil || said != want {
		g.t.Errorf("%s: %q, %v", target, said, err)
	}
}

func (g guest) fenced(target string) {
	g.t.Helper()
	if said, err := g.dial(target, time.Second); err == nil {
		g.t.Errorf("%s was reached: %q", target, said)
	}
}

// greet serves a word on every address of a namespace.
func greet(t *testing.T, ns netns.NsHandle, port, word string) (actual string) {
	t.Helper()
	var l net.Listener
	check(t, within(ns, func() error {
		var err error
		l, err = net.Listen("tcp4", "0.0.0.0:"+port)
		return err
	}))
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(conn, word)
			conn.Close()
		}
	}()
	_, actual, err := net.SplitHostPort(l.Addr().String())
	check(t, err)
	return actual
}

func host(t *testing.T) netns.NsHandle {
	t.Helper()
	ns, err := netns.Get()
	check(t, err)
	t.Cleanup(func() { ns.Close() })
	return ns
}

// world is a stand-in for the internet, routed by the host: one public address
// and one private one, and the host's own address there.
func world(t *testing.T) (public, private string, hostAddress string) {
	t.Helper()
	ns := namespace(t, "world")
	const near, far, farPublic, farPrivate = "nbtestw0", "eth0", "5.255.254.2", "10.255.254.2"
	check(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: near}, PeerName: far, PeerNamespace: netlink.NsFd(int(ns))}))
	t.Cleanup(func() {
		if link, err := netlink.LinkByName(near); err == nil {
			netlink.LinkDel(link)
		}
	})
	check(t, address(near, netip.MustParseAddr("5.255.254.1"), 30))
	check(t, address(near, netip.MustParseAddr("10.255.254.1"), 30))
	check(t, within(ns, func() error {
		return errors.Join(address(far, netip.MustParseAddr(farPublic), 30), address(far, netip.MustParseAddr(farPrivate), 30))
	}))
	greet(t, ns, "8080", "world")
	return farPublic + ":8080", farPrivate + ":8080", "5.255.254.1"
}

func TestProfileNone(t *testing.T) {
	target := greet(t, host(t), "0", "host")
	m := manager(t, Relay{Port: 9000, Target: "127.0.0.1:" + target})
	public, private, hostAddress := world(t)
	g := slot(t, m, "none", nimbus.NetworkNone)
	g.reaches("172.16.0.1:9000", "host")
	for _, away := range []string{"172.16.0.1:9001", "172.16.0.1:" + target, public, private, hostAddress + ":" + target} {
		g.fenced(away)
	}
	if ids, err := m.List(); err != nil || strings.Join(ids, " ") != "none" {
		t.Errorf("listed %q, %v", ids, err)
	}
	if _, err := netlink.LinkByName(uplinkPrefix + "0"); err == nil {
		t.Error("a slot without a way out has one")
	}
}

func TestProfileInternet(t *testing.T) {
	target := greet(t, host(t), "0", "host")
	m := manager(t, Relay{Port: 9000, Target: "127.0.0.1:" + target})
	public, private, hostAddress := world(t)
	a := slot(t, m, "a", nimbus.NetworkInternet)
	b := slot(t, m, "b", nimbus.NetworkInternet)
	for _, g := range []guest{a, b} {
		g.reaches("172.16.0.1:9000", "host")
		g.reaches(public, "world")
		for _, away := range []string{private, hostAddress + ":" + target, "172.16.0.1:" + target, "169.254.169.254:80"} {
			g.fenced(away)
		}
		for index := range 2 {
			near, far := addresses(index)
			g.fenced(near.String() + ":" + target)
			g.fenced(far.String() + ":9000")
		}
	}
}

// TestSlotFenceAlone takes what the host has behind a slot's fence away.
func TestSlotFenceAlone(t *testing.T) {
	target := greet(t, host(t), "0", "host")
	m := manager(t)
	public, private, hostAddress := world(t)
	g := slot(t, m, "alone", nimbus.NetworkInternet)
	check(t, nft(t.Context(), "flush chain inet nimbus enter\nflush chain inet nimbus pass\n"))
	g.reaches(public, "world")
	near, _ := addresses(0)
	for _, away := range []string{private, near.String() + ":" + target, "172.16.0.1:" + target} {
		g.fenced(away)
	}
	// The host's public address is told from others by the host alone.
	g.reaches(hostAddress+":"+target, "host")
}

// TestHostFenceAlone takes the slot's own fence away: what the host has behind
// it must hold by itself, should a guest ever get that far.
func TestHostFenceAlone(t *testing.T) {
	target := greet(t, host(t), "0", "host")
	m := manager(t)
	public, private, hostAddress := world(t)
	g := slot(t, m, "bare", nimbus.NetworkInternet)
	ns, err := netns.GetFromPath(m.path("bare"))
	check(t, err)
	defer ns.Close()
	check(t, within(ns, func() error { return nft(t.Context(), "delete table inet fence\n") }))
	g.reaches(public, "world")
	near, _ := addresses(0)
	for _, away := range []string{private, hostAddress + ":" + target, near.String() + ":" + target} {
		g.fenced(away)
	}
}

// TestForgedSource lets a guest send in another's name. What it sends needs no
// answer, and would leave in the slot's own name if the fence let it.
func TestForgedSource(t *testing.T) {
	m := manager(t)
	public, _, _ := world(t)
	host, _, err := net.SplitHostPort(public)
	check(t, err)
	outside, err := netns.GetFromName(fmt.Sprintf("nbtest-%d-world", os.Getpid()))
	check(t, err)
	defer outside.Close()
	var heard net.PacketConn
	check(t, within(outside, func() error {
		heard, err = net.ListenPacket("udp4", net.JoinHostPort(host, "8081"))
		return err
	}))
	defer heard.Close()
	g := slot(t, m, "forger", nimbus.NetworkInternet)
	check(t, within(g.ns, func() error { return address("eth0", netip.MustParseAddr("5.5.5.5"), 32) }))
	for _, source := range []string{"5.5.5.5", Guest.Addr().String()} {
		check(t, within(g.ns, func() error {
			conn, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(source)}}).Dial("udp4", net.JoinHostPort(host, "8081"))
			if err != nil {
				return err
			}
			defer conn.Close()
			_, err = conn.Write([]byte(source))
			return err
		}))
	}
	check(t, heard.SetReadDeadline(time.Now().Add(5*time.Second)))
	said := make([]byte, 64)
	n, _, err := heard.ReadFrom(said)
	if err != nil || string(said[:n]) != Guest.Addr().String() { // they come in order
		t.Errorf("the first that came out is %q, %v", said[:n], err)
	}
}

func TestAdoptReopensRelays(t *testing.T) {
	relay := Relay{Port: 9000, Target: "127.0.0.1:" + greet(t, host(t), "0", "host")}
	m := manager(t, relay)
	g := slot(t, m, "adopted", nimbus.NetworkNone)
	m.doors["adopted"].close() // as if the process had ended
	g.fenced("172.16.0.1:9000")
	next := manager(t, relay)
	for range 2 {
		if _, err := next.Adopt("adopted"); err != nil {
			t.Fatal(err)
		}
	}
	g.reaches("172.16.0.1:9000", "host")
	check(t, next.Remove(t.Context(), "adopted"))
	if _, err := next.Adopt("adopted"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("adopted what is gone: %v", err)
	}
}

func TestRemoveLeavesNothing(t *testing.T) {
	m := manager(t)
	before := tables(t)
	slot(t, m, "gone", nimbus.NetworkInternet)
	if now := tables(t); !strings.Contains(now, "inet nimbus") {
		t.Errorf("the host has no rules: %s", now)
	}
	for range 2 {
		check(t, m.Remove(t.Context(), "gone"))
	}
	if after := tables(t); after != before {
		t.Errorf("tables before %q, after %q", before, after)
	}
	if _, err := netlink.LinkByName(uplinkPrefix + "0"); err == nil {
		t.Error("the uplink is left")
	}
	// What a crash left: a file that never became a namespace.
	check(t, os.WriteFile(m.path("torn"), nil, 0o600))
	check(t, m.Remove(t.Context(), "torn"))
	if _, err := os.Stat(m.path("torn")); err == nil {
		t.Error("the torn one is left")
	}
}

func tables(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("nft", "list", "tables").Output()
	check(t, err)
	return string(out)
}

func TestCheck(t *testing.T) {
	if err := manager(t).Check(t.Context()); err != nil {
		t.Error(err)
	}
}
