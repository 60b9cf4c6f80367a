package firecrackertest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
)

// Tap makes a tap device until the test ends; "" without root.
func Tap(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Log("without root there is no tap: network devices are not tried")
		return ""
	}
	link := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("nfc%08x", rand.Uint32())}, Mode: netlink.TUNTAP_MODE_TAP}
	must(t, netlink.LinkAdd(link))
	t.Cleanup(func() {
		if err := netlink.LinkDel(link); err != nil {
			t.Error(err)
		}
	})
	return link.Name
}
