package netslot

import (
	"net"
	"os/exec"
	"testing"
	"time"

	"github.com/vishvananda/netns"
)

// TestTrafficIsTheGuests: what the guest sends counts as sent, what it gets as
// received, seen from a process of the slot, where a monitor would be.
func TestTrafficIsTheGuests(t *testing.T) {
	t.Parallel()
	m := manager(t)
	g := slot(t, m, "traffic", none)
	ns, err := netns.GetFromPath(m.path("traffic"))
	check(t, err)
	defer ns.Close()
	monitor, stranger := exec.Command("sleep", "60"), exec.Command("sleep", "60")
	check(t, within(ns, monitor.Start))
	check(t, stranger.Start())
	defer func() {
		for _, c := range []*exec.Cmd{monitor, stranger} {
			_ = c.Process.Kill()
			_ = c.Wait()
		}
	}()
	read := func() (sent, received int64) {
		t.Helper()
		sent, received, err := Traffic(monitor.Process.Pid)
		check(t, err)
		return sent, received
	}
	sent, received := read()
	var conn net.Conn
	check(t, within(g.ns, func() (err error) {
		conn, err = net.Dial("udp", "172.16.0.1:9")
		return err
	}))
	defer conn.Close()
	const enough = 10_000
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		_, err := conn.Write(make([]byte, 1000)) // some go missing while the devices come up
		now, _ := read()
		if now-sent >= enough {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the guest sends and sends, and %d bytes are counted: %v", now-sent, err)
		}
	}
	if _, now := read(); now-received >= enough {
		t.Errorf("the guest got nothing and %d bytes are counted", now-received)
	}
	// A process of no slot tells nothing.
	if s, r, err := Traffic(stranger.Process.Pid); s != 0 || r != 0 || err != nil {
		t.Errorf("of a process beside it: %d, %d, %v", s, r, err)
	}
	if _, _, err := Traffic(1 << 30); err == nil {
		t.Error("a process that does not exist tells something")
	}
}
