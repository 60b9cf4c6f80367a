package netslot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/vishvananda/netns"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot/dnsguard"
)

// Bounds of what one guest may make the agent do.
const (
	// maxConnections is how many connections one relay serves at once; more
	// wait in the kernel's backlog.
	maxConnections = 128
	dialTimeout    = 10 * time.Second
)

// doors are the listeners of one slot. They belong to its namespace, while what
// they dial is dialled from the host.
type doors struct {
	log    *slog.Logger
	ctx    context.Context //nolint:containedctx // ends everything that the doors let in
	cancel context.CancelFunc
	wait   sync.WaitGroup
	guard  *dnsguard.Guard // nil for a slot without a way out
}

// openDoors opens the relays, and a resolver for guests with a way out.
func openDoors(ns netns.NsHandle, id string, relays []Relay, guard *dnsguard.Guard, log *slog.Logger) (*doors, error) {
	ctx, cancel := context.WithCancel(context.Background()) // ends by close
	d := &doors{log: log, ctx: ctx, cancel: cancel, guard: guard}
	err := within(ns, func() error {
		for _, r := range relays {
			if err := d.relay(id, r); err != nil {
				return err
			}
		}
		if guard == nil {
			return nil
		}
		return d.names(guard)
	})
	if err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

// close ends all connections and waits for what served them.
func (d *doors) close() {
	d.cancel()
	d.wait.Wait()
}

// closeAtEnd closes c when the doors do; the returned function closes it now.
func (d *doors) closeAtEnd(c io.Closer) (now func()) {
	stop := context.AfterFunc(d.ctx, func() { c.Close() })
	return func() {
		if stop() {
			c.Close()
		}
	}
}

// relay listens on a port of the gateway. It runs within the slot.
func (d *doors) relay(id string, r Relay) error {
	return d.listen(net.JoinHostPort(Gateway.String(), strconv.Itoa(int(r.Port))), maxConnections, func(guest net.Conn) {
		if r.Serve == nil {
			d.carry(guest, r.Target)
			return
		}
		defer d.closeAtEnd(guest)()
		r.Serve(id, guest)
	})
}

// listen serves the connections to an address, so many at once.
func (d *doors) listen(address string, most int, serve func(net.Conn)) error {
	l, err := net.Listen("tcp4", address)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	closeListener := d.closeAtEnd(l)
	d.wait.Go(func() {
		defer closeListener()
		slots := make(chan struct{}, most)
		for {
			slots <- struct{}{}
			guest, err := l.Accept()
			if err != nil {
				if !d.pause(err) {
					return
				}
				<-slots
				continue
			}
			d.wait.Go(func() {
				defer func() { <-slots }()
				serve(guest)
			})
		}
	})
	return nil
}

// pause waits a little after an error that may pass, like a lack of file
// descriptors; false means that the doors are closed.
func (d *doors) pause(err error) bool {
	const patience = 100 * time.Millisecond
	if d.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
		return false
	}
	d.log.WarnContext(d.ctx, "relay", "error", err)
	select {
	case <-time.After(patience):
		return true
	case <-d.ctx.Done():
		return false
	}
}

// carry copies between a guest's connection and its target until both are done.
func (d *doors) carry(guest net.Conn, target string) {
	defer d.closeAtEnd(guest)()
	ctx, cancel := context.WithTimeout(d.ctx, dialTimeout)
	defer cancel()
	var dialer net.Dialer
	out, err := dialer.DialContext(ctx, "tcp", target)
	if err != nil {
		d.log.WarnContext(ctx, "relay", "target", target, "error", err)
		return
	}
	defer d.closeAtEnd(out)()
	var both sync.WaitGroup
	both.Go(func() { pour(out, guest) })
	both.Go(func() { pour(guest, out) })
	both.Wait()
}

// pour copies until src ends and hands the end on. A failed side ends both.
func pour(dst, src net.Conn) {
	if _, err := io.Copy(dst, src); err != nil {
		dst.Close()
		src.Close()
		return
	}
	if half, ok := dst.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // broken already: the other direction will tell
	}
}

// names opens the guard's doors for questions. It runs within the slot.
func (d *doors) names(g *dnsguard.Guard) error {
	address := net.JoinHostPort(Gateway.String(), strconv.Itoa(dnsPort))
	socket, err := net.ListenPacket("udp4", address)
	if err != nil {
		return fmt.Errorf("listen for names: %w", err)
	}
	closeSocket := d.closeAtEnd(socket)
	d.wait.Go(func() {
		defer closeSocket()
		g.ServeDatagrams(d.ctx, socket)
	})
	return d.listen(address, dnsguard.MaxStreams(), func(guest net.Conn) {
		defer d.closeAtEnd(guest)()
		g.ServeStream(d.ctx, guest)
	})
}
