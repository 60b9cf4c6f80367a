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
	end, err := kernelsPorts()
	if err != nil || end < ownPorts+1000 {
		return anyAddress()
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

// kernelsPorts is where the ports begin that the kernel gives to who asks for any.
func kernelsPorts() (first int, err error) {
	said, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err == nil {
		_, err = fmt.Sscan(string(said), &first)
	}
	if err != nil {
		return 0, fmt.Errorf("read which ports the kernel gives: %w", err)
	}
	return first, nil
}

// anyAddress is for a kernel that leaves none to others, or does not tell.
func anyAddress() (string, error) {
	// Not 127.0.0.1: each connection that anyone makes to a loopback address has a port
	// of that one, and a server that is started again could find its own taken.
	l, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		return "", fmt.Errorf("look for a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}
