package netslot

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netns"
)

// Bounds of what one guest may make the agent do.
const (
	// maxConnections is how many connections one relay serves at once; more
	// wait in the kernel's backlog.
	maxConnections = 128
	// maxQueries is how many names are looked up at once; more are dropped, and
	// resolvers ask again.
	maxQueries   = 32
	queryTimeout = 5 * time.Second
	maxDatagram  = 4 << 10
	dialTimeout  = 10 * time.Second
)

// doors are the listeners of one slot. They belong to its namespace, while what
// they dial is dialled from the host.
type doors struct {
	log    *slog.Logger
	ctx    context.Context //nolint:containedctx // ends everything that the doors let in
	cancel context.CancelFunc
	wait   sync.WaitGroup
}

// openDoors opens the relays, and a resolver for guests with a way out.
func openDoors(ns netns.NsHandle, relays []Relay, internet bool, log *slog.Logger) (*doors, error) {
	ctx, cancel := context.WithCancel(context.Background()) // ends by close
	d := &doors{log: log, ctx: ctx, cancel: cancel}
	err := within(ns, func() error {
		for _, r := range relays {
			if err := d.relay(int(r.Port), r.Target); err != nil {
				return err
			}
		}
		if internet {
			return d.resolver()
		}
		return nil
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
func (d *doors) relay(port int, target string) error {
	l, err := net.Listen("tcp4", net.JoinHostPort(Gateway.String(), strconv.Itoa(port)))
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	closeListener := d.closeAtEnd(l)
	d.wait.Go(func() {
		defer closeListener()
		slots := make(chan struct{}, maxConnections)
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
				d.carry(guest, target)
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

// resolver answers names by asking the host's own resolvers. It runs within
// the slot.
func (d *doors) resolver() error {
	upstream, err := nameserver("/etc/resolv.conf")
	if err != nil {
		return err
	}
	if err := d.relay(dnsPort, upstream); err != nil {
		return err
	}
	listener, err := net.ListenPacket("udp4", net.JoinHostPort(Gateway.String(), strconv.Itoa(dnsPort)))
	if err != nil {
		return fmt.Errorf("listen for names: %w", err)
	}
	closeListener := d.closeAtEnd(listener)
	d.wait.Go(func() {
		defer closeListener()
		slots := make(chan struct{}, maxQueries)
		buf := make([]byte, maxDatagram)
		for {
			n, from, err := listener.ReadFrom(buf)
			if err != nil {
				return
			}
			select {
			case slots <- struct{}{}:
			default:
				continue
			}
			query := append([]byte(nil), buf[:n]...)
			d.wait.Go(func() {
				defer func() { <-slots }()
				answer, err := d.ask(upstream, query)
				if err != nil {
					d.log.DebugContext(d.ctx, "resolve", "error", err)
					return
				}
				_, _ = listener.WriteTo(answer, from) // lost like any datagram
			})
		}
	})
	return nil
}

func (d *doors) ask(upstream string, query []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(d.ctx, queryTimeout)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "udp", upstream)
	if err != nil {
		return nil, fmt.Errorf("reach the resolver: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if _, err := conn.Write(query); err != nil {
		return nil, fmt.Errorf("ask the resolver: %w", err)
	}
	answer := make([]byte, maxDatagram)
	n, err := conn.Read(answer)
	if err != nil {
		return nil, fmt.Errorf("hear the resolver: %w", err)
	}
	return answer[:n], nil
}

// nameserver is the first resolver that a resolv.conf names.
func nameserver(path string) (string, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(dnsPort)), nil // as resolv.conf(5) has it
	}
	if err != nil {
		return "", fmt.Errorf("find the resolver: %w", err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) >= 2 && fields[0] == "nameserver" {
			return net.JoinHostPort(fields[1], strconv.Itoa(dnsPort)), nil
		}
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(dnsPort)), nil
}
