package testenv

import (
	"fmt"
	"net"
	"testing"
)

// FreeAddress is a loopback address that nobody listens on now, for a program
// that has to be told one.
func FreeAddress(t testing.TB) string {
	t.Helper()
	address, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

func freeAddress() (string, error) {
	// Not 127.0.0.1: each connection that anyone makes to a loopback address has a port
	// of that one, and a server that is started again could find its own taken.
	l, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		return "", fmt.Errorf("look for a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}
