package guest

import (
	"fmt"
	"net"

	"github.com/mdlayher/vsock"

	"github.com/nimbus-ci/nimbus/internal/guestlink"
)

// channels are the ways in which a machine's agent may come: by vsock where the
// monitor has said so, by the virtio-serial port where there is one.
func channels(p kernelParameters) ([]net.Listener, error) {
	var all []net.Listener
	if p.vsock != 0 {
		l, err := listenVsock(p.vsock)
		if err != nil {
			return nil, err
		}
		all = append(all, l)
		if device, err := findPort(); err != nil || device == "" {
			return all, err
		}
	}
	dev, err := openPort()
	if err != nil {
		return nil, err
	}
	return append(all, guestlink.Listen(dev)), nil
}

// listenVsock listens for the host. The listener outlives a snapshot of the
// machine; connections don't.
func listenVsock(port uint32) (net.Listener, error) {
	const anyOfOurs = 1<<32 - 1 // a machine that is made of a snapshot may get another address
	l, err := vsock.ListenContextID(anyOfOurs, port, nil)
	if err != nil {
		return nil, fmt.Errorf("listen on vsock port %d, for which the image needs the kernel's modules: %w", port, err)
	}
	return hostOnly{l}, nil
}

// hostOnly lets nobody but the host in: the job's own processes may find a way
// to the port.
type hostOnly struct{ net.Listener }

// Accept returns the next connection of the host's.
func (l hostOnly) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if from, ok := conn.RemoteAddr().(*vsock.Addr); ok && from.ContextID == vsock.Host {
			return conn, nil
		}
		conn.Close()
	}
}
