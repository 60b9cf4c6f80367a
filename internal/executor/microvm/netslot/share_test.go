package netslot

import (
	"os"
	"os/exec"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// freshVariable is set in a process on whose machine nobody has made a network
// namespace before.
const freshVariable = "NIMBUS_TEST_FRESH_NETNS"

// TestOthersMakeNamespaces: on a machine that has just started, somebody else makes
// the first network namespace by ip while there is a slot. It can be removed all
// the same.
func TestOthersMakeNamespaces(t *testing.T) {
	if os.Getenv(freshVariable) == "" {
		testenv.Require(t, "root", "nft", "ip", "unshare")
		const fresh = `mount -t tmpfs none /run && exec "$0" -test.run '^TestOthersMakeNamespaces$' -test.v`
		cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "/bin/sh", "-c", fresh, os.Args[0])
		cmd.Env = append(os.Environ(), freshVariable+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	m := manager(t)
	if _, err := m.Create(t.Context(), "before", Reach{Profile: nimbus.NetworkNone}); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("ip", "netns", "add", "others").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := m.Remove(t.Context(), "before"); err != nil {
		t.Error(err)
	}
	if left, err := m.List(); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if out, err := exec.Command("ip", "netns", "del", "others").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
