package near_test

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/cache/near"
)

// TestDoorKeepsItsPort: a job on the host itself goes on to reach the door when
// another process has it.
func TestDoorKeepsItsPort(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "cache-port")
	opened := func() *near.Door {
		t.Helper()
		d, err := near.Open(near.Config{Server: "http://127.0.0.1:1", PortFile: file, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	// ran has a door have been in use.
	ran := func(d *near.Door) string {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- d.Run(ctx) }()
		ask(t, "GET", "http://"+d.Addr()+"/", "", nil)
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		return d.Addr()
	}
	first := ran(opened())
	if _, port, err := net.SplitHostPort(first); err != nil || len(port) != 5 || port >= "32768" {
		t.Errorf("it has the port %s, which the kernel gives to connections that go out, too: %v", port, err)
	}
	if second := ran(opened()); second != first {
		t.Errorf("the next door is at %s, and not at %s", second, first)
	}
	taken, err := net.Listen("tcp4", first)
	if err != nil {
		t.Fatal(err)
	}
	other := opened()
	if other.Addr() == first {
		t.Fatal("two listen at one port")
	}
	// Until it runs the folder may be another agent's.
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(file); err != nil || "127.0.0.1:"+string(text) != first+"\n" {
		t.Errorf("%q, %v", text, err)
	}
	moved := ran(opened())
	taken.Close()
	if next := ran(opened()); next != moved || next == first {
		t.Errorf("after %s the door is at %s", moved, next)
	}
	for _, broken := range []string{"", "x", "-1", "70000", "0"} {
		if err := os.WriteFile(file, []byte(broken), 0o600); err != nil {
			t.Fatal(err)
		}
		ran(opened())
	}
}
