package testenv

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"testing"
)

// FreeAddress is a loopback address that nobody listens on now, for a program
// that has to be told one. Its port is none that the kernel gives to who asks for
// any: that might be taken before the program starts, or while it is started anew.
func FreeAddress(t testing.TB) string {
	t.Helper()
	address, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// ownPorts is where ports begin of which no browser refuses one, and few have an owner.
const ownPorts = 20_000

func freeAddress() (string, error) {
	var end int // of those that the kernel gives none of
	said, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err == nil {
		_, err = fmt.Sscan(string(said), &end)
	}
	if err != nil {
		return "", fmt.Errorf("look for a free port: %w", err)
	}
	for range 100 {
		port := 0
		if end >= ownPorts+1000 {
			port = ownPorts + rand.IntN(end-ownPorts)
		}
		l, listenErr := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if listenErr == nil {
			defer l.Close()
			return l.Addr().String(), nil
		}
		err = errors.Join(err, listenErr)
	}
	return "", fmt.Errorf("look for a free port: %w", err)
}
