package netslot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// uplinkPrefix begins the names of the host's ends: nimbus0, nimbus1, …
const uplinkPrefix = "nimbus"

// uplinkPool has two addresses for each uplink. It is shared address space
// (RFC 6598), whose upper end hardly anybody uses.
var uplinkPool = netip.MustParsePrefix("100.127.0.0/16")

// maxUplinks is how many the pool has room for.
const maxUplinks = 1 << 15

// hostLock is held while the host's rules come or go, by agents of one machine.
const hostLock = "/run/nimbus-net.lock"

// uplink connects a slot with the host.
func uplink(ctx context.Context, ns netns.NsHandle) error {
	unlock, err := lockHost(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	host, index, err := addPair(ns)
	if err != nil {
		return err
	}
	// The rules first: the link is down until they stand.
	if err := nft(ctx, hostFence()); err != nil {
		return err
	}
	if err := sysctl("net/ipv4/ip_forward", "1"); err != nil {
		return err
	}
	near, far := addresses(index)
	if err := setUpHostEnd(host, near); err != nil {
		return err
	}
	return setUpSlotEnd(ns, far, near)
}

// addPair makes a pair of devices with the first name that is free.
func addPair(ns netns.NsHandle) (netlink.Link, int, error) {
	for index := range maxUplinks {
		name := uplinkPrefix + strconv.Itoa(index)
		err := netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: name},
			PeerName:  upName, PeerNamespace: netlink.NsFd(int(ns)),
		})
		if errors.Is(err, unix.EEXIST) {
			continue
		}
		if err != nil {
			return nil, 0, fmt.Errorf("make uplink: %w", err)
		}
		link, err := netlink.LinkByName(name)
		if err != nil {
			return nil, 0, fmt.Errorf("find uplink: %w", err)
		}
		return link, index, nil
	}
	return nil, 0, fmt.Errorf("make uplink: all %d are in use", maxUplinks)
}

// addresses are those of the host's end and the slot's end, a /31 of the pool.
func addresses(index int) (near, far netip.Addr) {
	a := uplinkPool.Addr().As4()
	a[2], a[3] = byte(index>>7), byte(index<<1)
	near = netip.AddrFrom4(a)
	return near, near.Next()
}

func setUpHostEnd(link netlink.Link, near netip.Addr) error {
	if err := netlink.AddrAdd(link, pointToPoint(near)); err != nil {
		return fmt.Errorf("set address of uplink: %w", err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring up uplink: %w", err)
	}
	return nil
}

func setUpSlotEnd(ns netns.NsHandle, far, near netip.Addr) error {
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	link, err := h.LinkByName(upName)
	if err != nil {
		return fmt.Errorf("find %s: %w", upName, err)
	}
	if err := h.AddrAdd(link, pointToPoint(far)); err != nil {
		return fmt.Errorf("set address of %s: %w", upName, err)
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring up %s: %w", upName, err)
	}
	if err := h.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: near.AsSlice()}); err != nil {
		return fmt.Errorf("set default route: %w", err)
	}
	return nil
}

func pointToPoint(a netip.Addr) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(31, 32)}}
}

// withdraw removes the host's rules with the last uplink.
func withdraw(ctx context.Context) error {
	unlock, err := lockHost(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list uplinks: %w", err)
	}
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, uplinkPrefix) {
			return nil
		}
	}
	// Adding before deleting makes that none is no error.
	return nft(ctx, "table "+hostTable+"\ndelete table "+hostTable+"\n")
}

func lockHost(ctx context.Context) (unlock func(), err error) {
	f, err := os.OpenFile(hostLock, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock host's rules: %w", err)
	}
	const interval = 10 * time.Millisecond
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("lock host's rules: %w", err)
		}
		select {
		case <-time.After(interval):
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for the host's rules: %w", context.Cause(ctx))
		}
	}
}
