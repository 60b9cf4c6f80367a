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
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

func TestMain(m *testing.M) {
	clearDeadRuns()
	testenv.Main(m)
}

// clearDeadRuns removes what runs of these tests have left that were killed:
// the names have the run's process in them.
func clearDeadRuns() {
	entries, err := os.ReadDir(namespaces)
	if err != nil {
		return
	}
	for _, e := range entries {
		var pid int
		for _, form := range []string{"nimbus-t%d-", "nbtest-%d-"} {
			if _, err := fmt.Sscanf(e.Name(), form, &pid); err != nil {
				continue
			}
			if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); errors.Is(err, fs.ErrNotExist) {
				netns.DeleteNamed(e.Name())
				if link, err := netlink.LinkByName(worldLink(pid)); err == nil {
					netlink.LinkDel(link)
				}
			}
		}
	}
}

// worldLink is the host's way to the stand-in for the internet.
func worldLink(pid int) string { return fmt.Sprintf("nbw%d", pid) }

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

// slot makes one and puts a guest behind it.
func slot(t *testing.T, m *Manager, id string, r Reach) guest {
	t.Helper()
	s, err := m.Create(t.Context(), id, r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Remove(context.Background(), id); err != nil {
			t.Error(err)
		}
		for _, path := range []string{s.Netns, m.reachFile(id)} {
			if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s is left: %v", path, err)
			}
		}
	})
	g := guest{t: t, ns: namespace(t, id)}
	ns, err := netns.GetFromPath(s.Netns)
	check(t, err)
	defer ns.Close()
	cable(t, plug(t, ns, TapName), plug(t, g.ns, "eth0"))
	check(t, within(g.ns, func() error {
		link, err := netlink.LinkByName("eth0")
		check(t, err)
		mac, err := net.ParseMAC(GuestMAC)
		check(t, err)
		check(t, netlink.LinkSetHardwareAddr(link, mac))
		check(t, address("eth0", Guest.Addr(), Guest.Bits()))
		return netlink.RouteAdd(&netlink.Route{Gw: Gateway.AsSlice()})
	}))
	g.awaitLink()
	return g
}

// awaitLink waits until the gateway is heard: the kernel lets a device carry
// packets up to a second after it is up, and what is lost till then would pass
// for fenced. Who does not hear it is told at once that there is no way to it, too.
func (g guest) awaitLink() {
	g.t.Helper()
	const tries = 30
	for range tries {
		_, _ = g.dial("172.16.0.1:1", time.Second) // which has it asked for
		if g.knowsGateway() {
			return
		}
	}
	g.t.Fatal("the gateway is not heard")
}

// knowsGateway tells whether the gateway has answered who it is.
func (g guest) knowsGateway() (known bool) {
	g.t.Helper()
	check(g.t, within(g.ns, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		neighbours, err := netlink.NeighList(link.Attrs().Index, netlink.FAMILY_V4)
		known = slices.ContainsFunc(neighbours, func(n netlink.Neigh) bool {
			return n.IP.Equal(Gateway.AsSlice()) && n.State&(netlink.NUD_REACHABLE|netlink.NUD_STALE|netlink.NUD_DELAY|netlink.NUD_PROBE) != 0
		})
		return err
	}))
	return known
}

var (
	internet = Reach{Profile: nimbus.NetworkInternet}
	none     = Reach{Profile: nimbus.NetworkNone}
)

func reaching(names nimbus.Names) Reach { return Reach{Profile: nimbus.NetworkNames, Names: names} }

// plug opens a tap as a monitor does.
func plug(t *testing.T, ns netns.NsHandle, name string) *os.File {
	t.Helper()
	var fd int
	err := within(ns, func() error {
		var err error
		if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err != nil {
			return err
		}
		request, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	})
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), name)
}

// cable carries frames between two taps, until the test ends.
func cable(t *testing.T, a, b *os.File) {
	t.Helper()
	var done sync.WaitGroup
	for _, ends := range [][2]*os.File{{a, b}, {b, a}} {
		done.Go(func() {
			frame := make([]byte, 1<<16)
			for {
				n, err := ends[0].Read(frame)
				if err != nil {
					return
				}
				_, _ = ends[1].Write(frame[:n]) // as lost as on any cable
			}
		})
	}
	t.Cleanup(func() {
		a.Close()
		b.Close()
		done.Wait()
	})
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
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	said, err := io.ReadAll(conn)
	return string(said), err
}

func (g guest) reaches(target, want string) {
	g.t.Helper()
	// A first packet may go missing while the devices come up.
	if said, err := g.dial(target, 30*time.Second); err != nil || said != want {
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

// otherPublic is a second public address of the world.
const otherPublic = "5.255.254.6"

// world is a stand-in for the internet, routed by the host: one public address
// and one private one, and the host's own address there.
func world(t *testing.T) (public, private string, hostAddress string) {
	t.Helper()
	ns := namespace(t, "world")
	const far, farPublic, farPrivate = "eth0", "5.255.254.2", "10.255.254.2"
	near := worldLink(os.Getpid())
	check(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: near}, PeerName: far, PeerNamespace: netlink.NsFd(int(ns))}))
	t.Cleanup(func() {
		if link, err := netlink.LinkByName(near); err == nil {
			netlink.LinkDel(link)
		}
	})
	check(t, address(near, netip.MustParseAddr("5.255.254.1"), 30))
	check(t, address(near, netip.MustParseAddr("10.255.254.1"), 30))
	check(t, address(near, netip.MustParseAddr("5.255.254.5"), 30))
	check(t, within(ns, func() error {
		return errors.Join(address(far, netip.MustParseAddr(farPublic), 30), address(far, netip.MustParseAddr(farPrivate), 30),
			address(far, netip.MustParseAddr(otherPublic), 30))
	}))
	greet(t, ns, "8080", "world")
	return farPublic + ":8080", farPrivate + ":8080", "5.255.254.1"
}

func TestProfileNone(t *testing.T) {
	target := greet(t, host(t), "0", "host")
	m := manager(t, Relay{Port: 9000, Target: "127.0.0.1:" + target})
	public, private, hostAddress := world(t)
	g := slot(t, m, "none", none)
	g.reaches("172.16.0.1:9000", "host")
	for _, away := range []string{"172.16.0.1:9001", "172.16.0.1:" + target, public, private, hostAddress + ":" + target} {
		g.fenced(away)
	}
	if ids, err := m.List(); err != nil || strings.Join(ids, " ") != "none" {
		t.Errorf("listed %q, %v", ids, err)
	}
	if up := uplinkOf(t, m, "none"); up >= 0 {
		t.Errorf("a slot without a way out has uplink %d", up)
	}
}

// uplinkOf is the number of a slot's uplink, -1 where it has none. Others on
// this machine may have the first ones.
func uplinkOf(t *testing.T, m *Manager, id string) int {
	t.Helper()
	ns, err := netns.GetFromPath(m.path(id))
	check(t, err)
	defer ns.Close()
	index := -1
	check(t, within(ns, func() error {
		link, err := netlink.LinkByName(upName)
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			return nil
		}
		check(t, err)
		own, err := netlink.AddrList(link, netlink.FAMILY_V4)
		check(t, err)
		for i := range maxUplinks {
			if _, far := addresses(i); len(own) > 0 && own[0].IP.Equal(far.AsSlice()) {
				index = i
				break
			}
		}
		return nil
	}))
	return index
}

func TestProfileInternet(t *testing.T) {
	target := greet(t, host(t), "0", "host")
	m := manager(t, Relay{Port: 9000, Target: "127.0.0.1:" + target})
	public, private, hostAddress := world(t)
	a := slot(t, m, "a", internet)
	b := slot(t, m, "b", internet)
	for _, g := range []guest{a, b} {
		g.reaches("172.16.0.1:9000", "host")
		g.reaches(public, "world")
		for _, away := range []string{private, hostAddress + ":" + target, "172.16.0.1:" + target, "169.254.169.254:80"} {
			g.fenced(away)
		}
		for _, id := range []string{"a", "b"} {
			near, far := addresses(uplinkOf(t, m, id))
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
	g := slot(t, m, "alone", internet)
	near, _ := addresses(uplinkOf(t, m, "alone"))
	check(t, nft(t.Context(), "flush chain inet nimbus enter\nflush chain inet nimbus pass\n"))
	g.reaches(public, "world")
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
	g := slot(t, m, "bare", internet)
	ns, err := netns.GetFromPath(m.path("bare"))
	check(t, err)
	defer ns.Close()
	check(t, within(ns, func() error { return nft(t.Context(), "delete table inet fence\ndelete table netdev fence\n") }))
	g.reaches(public, "world")
	near, _ := addresses(uplinkOf(t, m, "bare"))
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
	g := slot(t, m, "forger", internet)
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
	check(t, heard.SetReadDeadline(time.Now().Add(30*time.Second)))
	said := make([]byte, 64)
	n, _, err := heard.ReadFrom(said)
	if err != nil || string(said[:n]) != Guest.Addr().String() { // they come in order
		t.Errorf("the first that came out is %q, %v", said[:n], err)
	}
}

func TestAdoptReopensRelays(t *testing.T) {
	relay := Relay{Port: 9000, Target: "127.0.0.1:" + greet(t, host(t), "0", "host")}
	m := manager(t, relay)
	g := slot(t, m, "adopted", none)
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
	slot(t, m, "gone", internet)
	near, _ := addresses(uplinkOf(t, m, "gone"))
	if now := tables(t); !strings.Contains(now, hostTable) {
		t.Errorf("the host has no rules: %s", now)
	}
	for range 2 {
		check(t, m.Remove(t.Context(), "gone"))
	}
	links, err := netlink.LinkList()
	check(t, err)
	others := false
	for _, l := range links {
		own, err := netlink.AddrList(l, netlink.FAMILY_V4)
		check(t, err)
		if len(own) > 0 && own[0].IP.Equal(near.AsSlice()) {
			t.Errorf("the uplink %s is left", l.Attrs().Name)
		}
		others = others || strings.HasPrefix(l.Attrs().Name, uplinkPrefix)
	}
	if after := tables(t); strings.Contains(after, hostTable) && !others {
		t.Errorf("the host still has rules: %s", after)
	}
	// What a crash left: a file that never became a namespace.
	check(t, os.WriteFile(m.path("torn"), nil, 0o600))
	check(t, m.Remove(t.Context(), "torn"))
	if _, err := os.Stat(m.path("torn")); err == nil {
		t.Error("the torn one is left")
	}
}

// TestLinkThatGoesByItself removes a slot's devices while they go: a device goes
// with its other end, whose namespace the kernel takes down when it likes.
func TestLinkThatGoesByItself(t *testing.T) {
	testenv.Require(t, "root", "nft")
	ns := namespace(t, "vanish")
	const rounds = 60
	for range rounds {
		check(t, within(ns, func() error {
			check(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: upName}, PeerName: TapName}))
			h, err := netlink.NewHandle() // of this namespace
			check(t, err)
			defer h.Close()
			var gone sync.WaitGroup
			gone.Go(func() {
				if link, err := h.LinkByName(TapName); err == nil {
					h.LinkDel(link) // whoever is first
				}
			})
			defer gone.Wait()
			return removeLinks(ns)
		}))
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
