package firecracker

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// GuestPort is the vsock port on which the guest waits for the agent.
const GuestPort = 1024

// handshakeTimeout bounds what the monitor itself answers.
const handshakeTimeout = 5 * time.Second

// Dial connects to the guest's port.
func (*Driver) Dial(ctx context.Context, dir string) (net.Conn, error) {
	return dialPort(ctx, dir, GuestPort)
}

// dialPort connects to a vsock port of the guest in dir. The monitor hangs up
// when nobody listens there.
func dialPort(ctx context.Context, dir string, port uint32) (net.Conn, error) {
	root, err := root(dir)
	if err != nil {
		return nil, err
	}
	conn, err := root.Dial(ctx, vsockSocket)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	if err := handshake(conn, port); err != nil {
		stop()
		conn.Close()
		return nil, fmt.Errorf("dial guest's port %d: %w", port, err)
	}
	if !stop() {
		return nil, fmt.Errorf("dial guest's port %d: %w", port, context.Cause(ctx))
	}
	return conn, nil
}

// handshake asks for a port. The answer is read byte by byte: what follows it is
// the guest's already.
func handshake(conn net.Conn, port uint32) error {
	if err := conn.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(conn, "CONNECT %d\n", port); err != nil {
		return err
	}
	const longest = len("OK 4294967295\n")
	line := make([]byte, 0, longest)
	for one := make([]byte, 1); len(line) < longest; {
		if _, err := conn.Read(one); err != nil {
			return fmt.Errorf("nobody answers: %w", err)
		}
		if one[0] == '\n' {
			break
		}
		line = append(line, one[0])
	}
	number, ok := strings.CutPrefix(string(line), "OK ")
	if _, err := strconv.ParseUint(number, 10, 32); !ok || err != nil {
		return fmt.Errorf("the monitor answers %q", line)
	}
	return conn.SetDeadline(time.Time{})
}
