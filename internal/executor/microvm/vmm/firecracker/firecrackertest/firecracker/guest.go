package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Ports on which the pretended guest listens.
const (
	echoPort   = 1024 // says again what it hears
	memoryPort = 1025 // tells of its memory, a line for a line
)

// firstLocalPort is the host's first port of connections that it makes.
const firstLocalPort = 1 << 30

// guest is what runs in the machine.
type guest struct {
	m        *machine
	listener net.Listener
	kernel   []byte
	init     *initProcess // nil where all is pretended

	mu   sync.Mutex
	next int
}

// listenVsock makes the socket, which must not exist, for the monitor's user.
func listenVsock(path string) (net.Listener, error) {
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(true)
	return listener, os.Chmod(path, 0o755)
}

func newGuest(m *machine, listener net.Listener) *guest {
	g := &guest{m: m, listener: listener, next: firstLocalPort}
	if listener != nil {
		go g.accept()
	}
	return g
}

func (g *guest) close() {
	if g.listener != nil {
		g.listener.Close()
	}
}

// run does what the kernel does: it writes the letters that its code would, and
// resets the machine if its code does. See firecracker.TrialKernel.
func (g *guest) run(kernel []byte) {
	g.kernel = kernel
	var out []byte
	for rest := kernel; ; {
		i := bytes.IndexByte(rest, 0xb0) // mov al, c; out dx, al
		if i < 0 || i+2 >= len(rest) {
			break
		}
		if rest[i+2] == 0xee && rest[i+1] != '.' {
			out = append(out, rest[i+1])
		}
		rest = rest[i+1:]
	}
	g.m.stdout.Write(out)
	if bytes.Contains(kernel, []byte{0xb0, 0xfe, 0xe6, 0x64}) {
		g.m.end()
	}
	if bytes.Contains(kernel, []byte{0xb0, '.', 0xee}) {
		go g.tick()
	}
}

// tick writes a dot now and then while the machine runs.
func (g *guest) tick() {
	for range time.Tick(50 * time.Millisecond) {
		g.m.mu.Lock()
		if g.m.state == running {
			g.m.stdout.Write([]byte("."))
		}
		g.m.mu.Unlock()
	}
}

func (g *guest) accept() {
	for {
		conn, err := g.listener.Accept()
		if err != nil {
			return
		}
		go g.connect(conn)
	}
}

// connect is the handshake of vsock: who asks for a port that nobody listens on
// is hung up on.
func (g *guest) connect(conn net.Conn) {
	handedOn := false
	defer func() {
		if !handedOn {
			conn.Close()
		}
	}()
	var port int
	r := bufio.NewReaderSize(conn, 32)
	line, err := r.ReadSlice('\n')
	if err != nil {
		return
	}
	if _, err := fmt.Sscanf(string(line), "CONNECT %d\n", &port); err != nil {
		return
	}
	serve, ok := map[int]func(io.Reader, io.Writer){echoPort: echo, memoryPort: g.tell}[port]
	g.m.mu.Lock()
	runs, init := g.m.state == running, g.init
	g.m.mu.Unlock()
	if init != nil {
		ok = port == init.port && init.answers()
	}
	if !ok || !runs {
		return
	}
	g.mu.Lock()
	local := g.next
	g.next++
	g.mu.Unlock()
	if _, err := fmt.Fprintf(conn, "OK %d\n", local); err != nil {
		return
	}
	if init != nil {
		handedOn = true
		init.calls <- buffered{conn, r}
		return
	}
	serve(r, conn)
}

func echo(r io.Reader, w io.Writer) { _, _ = io.Copy(w, r) }

// tell answers "page N" with the digest of a page, "drop N COUNT" by giving pages
// back, "write N" by writing to one.
func (g *guest) tell(r io.Reader, w io.Writer) {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		var number, count int
		m := g.m.memory
		switch line := lines.Text(); {
		case scan(line, "drop %d %d", &number, &count):
			fmt.Fprintln(w, m.drop(number, count))
		case scan(line, "write %d", &number):
			if page, ok := m.page(number); ok {
				copy(page, "written")
			}
			fmt.Fprintln(w, "written")
		case scan(line, "page %d", &number):
			page, ok := m.page(number)
			if !ok {
				fmt.Fprintln(w, "there is no such page")
				continue
			}
			fmt.Fprintf(w, "%x\n", sha256.Sum256(page))
		default:
			return
		}
	}
}

func scan(line, format string, args ...any) bool {
	n, err := fmt.Sscanf(line, format, args...)
	return err == nil && n == len(args)
}
