package near

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/nimbus-ci/nimbus/internal/wholefile"
)

// listen listens on the loopback interface, at the port of the door before if that
// is free: jobs on the host itself have it in their environment, and outlive the
// process.
func (c Config) listen() (net.Listener, error) {
	if port, ok := c.keptPort(); ok {
		l, err := listenAt(port)
		if err == nil {
			return l, nil
		}
		c.Log.Warn("the port of the door to the cache is somebody else's now: jobs of this host without a sandbox, which began before, have no cache", "port", port, "error", err)
	}
	return listenAnew()
}

// A port that the kernel gives to connections which go out (by default from 32768 on)
// may be one of theirs by the time that the next door wants it.
const (
	firstPort = 12_000
	ports     = 8_000
	portTries = 20
)

// listenAnew listens at any port, at one that is kept for servers if it can.
func listenAnew() (net.Listener, error) {
	for range portTries {
		if l, err := listenAt(firstPort + rand.N(ports)); err == nil {
			return l, nil
		}
	}
	return listenAt(0)
}

func listenAt(port int) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return nil, fmt.Errorf("listen for the cache's clients: %w", err)
	}
	return l, nil
}

// keptPort is that of the door before.
func (c Config) keptPort() (port int, ok bool) {
	if c.PortFile == "" {
		return 0, false
	}
	text, err := os.ReadFile(c.PortFile)
	if err != nil {
		return 0, false
	}
	port, err = strconv.Atoi(strings.TrimSpace(string(text)))
	return port, err == nil && port > 0 && port < 1<<16
}

// keepPort writes the port down for the next door. The folder must be this
// process's alone.
func (d *Door) keepPort() {
	at, ok := d.listener.Addr().(*net.TCPAddr)
	if !ok || d.cfg.PortFile == "" {
		return
	}
	if err := wholefile.Write(d.cfg.PortFile, []byte(strconv.Itoa(at.Port)+"\n"), 0o600); err != nil {
		d.cfg.Log.Error("the port of the door to the cache is not kept: jobs without a sandbox lose the cache when the agent starts anew", "error", err)
	}
}
