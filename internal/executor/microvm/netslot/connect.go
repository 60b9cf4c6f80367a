package netslot

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Connect gives a slot's other end to the network namespace of a container, and
// sets address and route there: nobody in the container can. Guest may do it
// once for each slot.
func (m *Manager) Connect(id string, container *os.File) error {
	slot, err := netns.GetFromPath(m.path(id))
	if err != nil {
		return fmt.Errorf("open network slot: %w", err)
	}
	defer slot.Close()
	inside := netns.NsHandle(int(container.Fd()))
	if err := handOver(slot, inside); err != nil {
		return fmt.Errorf("connect the container: %w", err)
	}
	// The fence speaks IPv4; the container has nothing else either.
	err = within(inside, func() error {
		return errors.Join(sysctl("net/ipv6/conf/all/disable_ipv6", "1"), sysctl("net/ipv6/conf/default/disable_ipv6", "1"))
	})
	if err == nil {
		err = setUpGuest(inside)
	}
	if err != nil {
		return fmt.Errorf("connect the container: %w", err)
	}
	return nil
}

// handOver moves the guest's end from the slot.
func handOver(slot, inside netns.NsHandle) error {
	h, err := netlink.NewHandleAt(slot, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	link, err := h.LinkByName(pairName)
	if err != nil {
		return fmt.Errorf("find %s: %w", pairName, err)
	}
	mac, err := net.ParseMAC(GuestMAC)
	if err != nil {
		return fmt.Errorf("parse address: %w", err)
	}
	if err := h.LinkSetHardwareAddr(link, mac); err != nil {
		return fmt.Errorf("set address of %s: %w", pairName, err)
	}
	if err := h.LinkSetNsFd(link, int(inside)); err != nil {
		return fmt.Errorf("hand %s over: %w", pairName, err)
	}
	return nil
}

// setUpGuest is what a microVM's guest does for itself.
func setUpGuest(inside netns.NsHandle) error {
	h, err := netlink.NewHandleAt(inside, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	for _, name := range []string{"lo", pairName} {
		link, err := h.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find %s: %w", name, err)
		}
		if name == pairName {
			address := &netlink.Addr{IPNet: &net.IPNet{IP: Guest.Addr().AsSlice(), Mask: net.CIDRMask(Guest.Bits(), Guest.Addr().BitLen())}}
			if err := h.AddrAdd(link, address); err != nil {
				return fmt.Errorf("set address of %s: %w", name, err)
			}
		}
		if err := h.LinkSetUp(link); err != nil {
			return fmt.Errorf("bring up %s: %w", name, err)
		}
	}
	if err := h.RouteAdd(&netlink.Route{Gw: Gateway.AsSlice()}); err != nil {
		return fmt.Errorf("set default route: %w", err)
	}
	return nil
}
