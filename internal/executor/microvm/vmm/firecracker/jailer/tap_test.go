package jailer

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// TestGiveTap gives away one that is in another network namespace.
func TestGiveTap(t *testing.T) {
	t.Parallel()
	testenv.Require(t, "root", "/dev/net/tun")
	type made struct {
		netns string
		err   error
	}
	ready, look, owner := make(chan made), make(chan struct{}), make(chan uint32, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends, and its namespace with it
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "gift0"}, Mode: netlink.TUNTAP_MODE_TAP})
		}
		ready <- made{fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), err}
		<-look
		link, err := netlink.LinkByName("gift0")
		tap, ok := link.(*netlink.Tuntap)
		if err != nil || !ok {
			t.Errorf("got %v, %v", link, err)
			tap = &netlink.Tuntap{}
		}
		owner <- tap.Owner
	}()
	m := <-ready
	if m.err != nil {
		t.Fatal(m.err)
	}
	if err := GiveTap(m.netns, "nothing0", testUID, testUID); err == nil {
		t.Error("gave away a tap that there isn't")
	}
	if err := GiveTap("", "gift0", testUID, testUID); err == nil {
		t.Error("gave away a tap of another namespace")
	}
	if err := GiveTap(m.netns, "gift0", testUID, testUID); err != nil {
		t.Error(err)
	}
	close(look)
	if got := <-owner; got != testUID {
		t.Errorf("it belongs to %d, want %d", got, testUID)
	}
}
