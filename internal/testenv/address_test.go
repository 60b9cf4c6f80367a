package testenv_test

import (
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// TestFreeAddressIsNoOtherPrograms: a port that is free stays so for who was given it,
// whoever else asks the kernel for any.
func TestFreeAddressIsNoOtherPrograms(t *testing.T) {
	t.Parallel()
	said, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		t.Skip("the kernel does not tell its ports: ", err)
	}
	first, err := strconv.Atoi(strings.Fields(string(said))[0])
	if err != nil {
		t.Fatal(err)
	}
	if first < 21_000 {
		t.Skipf("the kernel gives ports from %d on: none are left", first)
	}
	address := testenv.FreeAddress(t)
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if port := l.Addr().(*net.TCPAddr).Port; port >= first {
		t.Errorf("%s is one that the kernel gives to anybody", address)
	}
}
