// Package netslottest gives tests a stand-in for the internet.
package netslottest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot"
)

// World is what is around a sandbox: a stand-in for the internet, routed by the
// host, and the host itself.
type World struct {
	Public, Other string // addresses there
	Host          string // the host's address there
	Port          string // on which all of them listen

	socket net.PacketConn
}

// New makes a namespace with two public addresses, whose listeners say a
// word to whoever connects.
func New(t testing.TB) World {
	t.Helper()
	w := World{Public: "5.255.250.2", Other: "5.255.250.6", Host: "5.255.250.1"}
	ns := fmt.Sprintf("nbesc%d", os.Getpid())
	near := fmt.Sprintf("nbe%d", os.Getpid())
	ip(t, "netns", "add", ns)
	t.Cleanup(func() { ip(t, "netns", "del", ns) })
	ip(t, "link", "add", near, "type", "veth", "peer", "name", "eth0", "netns", ns)
	t.Cleanup(func() { exec.Command("ip", "link", "del", near).Run() }) // it goes with its other end
	for _, a := range []string{w.Host + "/30", "5.255.250.5/30"} {
		ip(t, "addr", "add", a, "dev", near)
	}
	ip(t, "link", "set", near, "up")
	for _, a := range []string{w.Public + "/30", w.Other + "/30"} {
		ip(t, "-n", ns, "addr", "add", a, "dev", "eth0")
	}
	ip(t, "-n", ns, "link", "set", "eth0", "up")
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go answer(l)
	_, w.Port, _ = net.SplitHostPort(l.Addr().String())
	inNamespace(t, filepath.Join("/run/netns", ns), func() error {
		for _, port := range []string{w.Port, "53", "853"} {
			l, err := net.Listen("tcp4", "0.0.0.0:"+port)
			if err != nil {
				return err
			}
			t.Cleanup(func() { l.Close() })
			go answer(l)
		}
		w.socket, err = net.ListenPacket("udp4", w.Public+":"+w.Port)
		return err
	})
	t.Cleanup(func() { w.socket.Close() })
	return w
}

func answer(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		conn.Close()
	}
}

// Heard is what datagrams came to the world, of those that were sent before.
func (w World) Heard() (all []string) {
	buf := make([]byte, 1<<10)
	for {
		w.socket.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		n, from, err := w.socket.ReadFrom(buf)
		if err != nil {
			return all
		}
		all = append(all, fmt.Sprintf("%s from %v", buf[:n], from))
	}
}

// Neighbour makes the network of another guest of an owner, listening, and returns its
// address outside.
func (w World) Neighbour(ctx context.Context, t testing.TB, owner string) string {
	t.Helper()
	m := netslot.New(netslot.Config{Owner: owner})
	slot, err := m.Create(ctx, "neighbour", netslot.Reach{Profile: nimbus.NetworkInternet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Remove(context.Background(), "neighbour") })
	var address string
	inNamespace(t, slot.Netns, func() error {
		device, err := net.InterfaceByName("up0")
		if err != nil {
			return err
		}
		addresses, err := device.Addrs()
		if err != nil || len(addresses) == 0 {
			return fmt.Errorf("the neighbour has no address: %w", err)
		}
		address, _, _ = strings.Cut(addresses[0].String(), "/")
		l, err := net.Listen("tcp4", "0.0.0.0:"+w.Port)
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go answer(l)
		return nil
	})
	return address
}

func ip(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %v: %v: %s", args, err, out)
	}
}

// inNamespace runs f in a network namespace; sockets that it opens stay there.
func inNamespace(t testing.TB, path string, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		ns, err := netns.GetFromPath(path)
		if err == nil {
			err = netns.Set(ns)
			ns.Close()
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
