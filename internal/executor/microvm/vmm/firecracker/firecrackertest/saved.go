package firecrackertest

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/firecracker/api"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/firecracker/pages"
)

// Save boots a machine of 16 MiB in dir, saves it as state and memory there, and
// ends it.
func Save(t *testing.T, target Target, dir string) {
	t.Helper()
	m := (&suite{target: target}).boot(t, dir)
	must(t, m.Pause(t.Context()), m.CreateSnapshot(t.Context(), api.SnapshotCreate{State: "state", Memory: "memory"}))
	m.Kill()
}

// Kill ends the process, and removes the socket that the next one would trip
// over.
func (m *Monitor) Kill() {
	m.t.Helper()
	_ = m.cmd.Process.Kill()
	<-m.ended
	os.Remove(filepath.Join(m.Dir, "v.sock"))
}

// Ended is closed once the process has ended.
func (m *Monitor) Ended() <-chan struct{} { return m.ended }

// PID is the process' id: the page server's, where there is one.
func (m *Monitor) PID() int { return m.cmd.Process.Pid }

// Console is what the process has written.
func (m *Monitor) Console() string { return m.console.String() }

// Load makes a machine of what Save saved, below a page server with that
// working set, and lets it run.
func Load(t *testing.T, target Target, dir, workingSet string) *Monitor {
	t.Helper()
	m := StartBelow(t, target, dir, pages.Spec{
		SocketDir: dir, SocketName: "pages.sock", UID: os.Geteuid(), Memory: filepath.Join(dir, "memory"), WorkingSet: workingSet,
	})
	must(t, m.LoadSnapshot(t.Context(), api.SnapshotLoad{
		State: "state", Memory: api.MemoryBackend{Type: api.BackendUffd, Path: "pages.sock"}, Resume: true,
	}))
	return m
}

// StartBelow starts a monitor below a page server, which gets its command line.
func StartBelow(t *testing.T, target Target, dir string, spec pages.Spec) *Monitor {
	t.Helper()
	os.Remove(filepath.Join(dir, spec.SocketName))
	path := filepath.Join(dir, "pages.json")
	return (&suite{target: target}).start(t, dir, func(command []string) []string {
		spec.Command = command
		must(t, spec.Write(path))
		return []string{target.Shim, pages.Flag, path}
	})
}

// Guest is a conversation with the double's guest about its memory.
type Guest struct {
	t     *testing.T
	conn  net.Conn
	lines *bufio.Reader
}

// memoryPort is where the guest tells of its memory.
const memoryPort = 1025

// Guest connects to the guest.
func (m *Monitor) Guest() *Guest {
	m.t.Helper()
	conn, err := net.Dial("unix", filepath.Join(m.Dir, "v.sock"))
	must(m.t, err)
	m.t.Cleanup(func() { conn.Close() })
	g := &Guest{t: m.t, conn: conn, lines: bufio.NewReader(conn)}
	if answer := g.Ask("CONNECT %d", memoryPort); !strings.HasPrefix(answer, "OK ") {
		m.t.Fatalf("the guest answers %q", answer)
	}
	return g
}

// Ask sends a line and returns the answer.
func (g *Guest) Ask(format string, args ...any) string {
	g.t.Helper()
	must(g.t, g.conn.SetDeadline(time.Now().Add(patience)))
	fmt.Fprintf(g.conn, format+"\n", args...)
	line, err := g.lines.ReadString('\n')
	if err != nil {
		g.t.Fatalf("%s: %v", fmt.Sprintf(format, args...), err)
	}
	return strings.TrimSpace(line)
}
