package testenv

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
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

var given sync.Map // ports that this process was given

func freeAddress() (string, error) {
	var end int // of those that the kernel gives none of
	said, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err == nil {
		_, err = fmt.Sscan(string(said), &end)
	}
	if err != nil {
		return "", fmt.Errorf("look for a free port: %w", err)
	}
	if end < ownPorts+1000 {
		return "", fmt.Errorf("look for a free port: the kernel gives those from %d on to anybody", end)
	}
	for range 1000 {
		port := ownPorts + rand.IntN(end-ownPorts)
		if _, taken := given.LoadOrStore(port, true); taken {
			continue
		}
		// Who listened here to find out would go on to for a moment, in each child that is
		// being started and has not become its program.
		address := fmt.Sprintf("127.0.0.1:%d", port)
		conn, err := net.Dial("tcp", address)
		if errors.Is(err, syscall.ECONNREFUSED) {
			return address, nil
		}
		if err == nil {
			conn.Close()
		}
	}
	return "", errors.New("look for a free port: none is free")
}
