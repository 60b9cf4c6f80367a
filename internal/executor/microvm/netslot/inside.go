package netslot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
)

// newNamespace makes a named namespace and returns it without entering it.
func newNamespace(name string) (netns.NsHandle, error) {
	var ns netns.NsHandle
	if err := shareNamespaces(); err != nil {
		return ns, err
	}
	err := onThread(func() error {
		var err error
		ns, err = netns.NewNamed(name)
		return err
	})
	if err != nil {
		return ns, fmt.Errorf("make network namespace: %w", err)
	}
	return ns, nil
}

// shareNamespaces makes the folder of namespaces a mount of its own, as the first
// `ip netns add` on a machine does. Did that come later, it would lay the folder
// over itself with all that is mounted in it, and no slot of before could be
// removed any more. The lock is the one that ip takes.
func shareNamespaces() error {
	if err := os.MkdirAll(namespaces, 0o755); err != nil {
		return fmt.Errorf("make folder of network namespaces: %w", err)
	}
	dir, err := os.Open(namespaces)
	if err != nil {
		return fmt.Errorf("open folder of network namespaces: %w", err)
	}
	defer dir.Close()
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock folder of network namespaces: %w", err)
	}
	err = unix.Mount("", namespaces, "none", unix.MS_SHARED|unix.MS_REC, "")
	if !errors.Is(err, unix.EINVAL) { // done, or it can't be done
		return shared(err)
	}
	if err := unix.Mount(namespaces, namespaces, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return shared(err)
	}
	return shared(unix.Mount("", namespaces, "none", unix.MS_SHARED|unix.MS_REC, ""))
}

func shared(err error) error {
	if err != nil {
		return fmt.Errorf("share folder of network namespaces: %w", err)
	}
	return nil
}

// within runs f inside a namespace. Sockets that f opens and programs that it
// starts belong to the namespace wherever they are used.
func within(ns netns.NsHandle, f func() error) error {
	return onThread(func() error {
		if err := netns.Set(ns); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

// onThread runs f on a thread that ends with it, whatever f did to it.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		done <- f()
	}()
	return <-done
}

// setUpInside sets the tap, its address and the fence. It runs within the slot.
func (m *Manager) setUpInside(ctx context.Context, profile nimbus.NetworkProfile) error {
	settings := map[string]string{
		"net/ipv6/conf/all/disable_ipv6":     "1", // the fence speaks IPv4; there is nothing else to fence
		"net/ipv6/conf/default/disable_ipv6": "1",
		"net/ipv4/ip_forward":                "0",
	}
	if wayOut(profile) {
		settings["net/ipv4/ip_forward"] = "1"
	}
	h, err := netlink.NewHandle()
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	tap, err := m.addTap(h)
	if err != nil {
		return err
	}
	// The fence names the tap, and stands before anything can come through it.
	if err := nft(ctx, fence(m.ports(), profile)); err != nil {
		return err
	}
	for name, value := range settings {
		if err := sysctl(name, value); err != nil {
			return err
		}
	}
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := h.LinkSetUp(lo); err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	if err := h.LinkSetUp(tap); err != nil {
		return fmt.Errorf("bring up tap: %w", err)
	}
	return nil
}

// addTap makes the tap, which is down.
func (m *Manager) addTap(h *netlink.Handle) (netlink.Link, error) {
	mac, err := net.ParseMAC(tapMAC)
	if err != nil {
		return nil, fmt.Errorf("parse address: %w", err)
	}
	var tap netlink.Link = &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: TapName}, Mode: netlink.TUNTAP_MODE_TAP}
	if m.cfg.Pairs {
		tap = &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: TapName}, PeerName: pairName}
	}
	if err := h.LinkAdd(tap); err != nil {
		return nil, fmt.Errorf("make tap: %w", err)
	}
	address, err := netlink.ParseAddr(fmt.Sprintf("%s/%d", Gateway, Guest.Bits()))
	if err != nil {
		return nil, fmt.Errorf("parse address: %w", err)
	}
	for _, step := range []func() error{
		func() error { return h.LinkSetHardwareAddr(tap, mac) },
		func() error { return h.AddrAdd(tap, address) },
	} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("set up tap: %w", err)
		}
	}
	return tap, nil
}

// sysctl sets a value of the calling thread's network namespace.
func sysctl(name, value string) error {
	err := os.WriteFile("/proc/sys/"+name, []byte(value), 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil // a kernel without IPv6
	}
	if err != nil {
		return fmt.Errorf("set %s: %w", name, err)
	}
	return nil
}
