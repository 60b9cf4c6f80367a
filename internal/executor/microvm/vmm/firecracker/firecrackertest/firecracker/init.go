package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A machine whose initrd has a first process in it gets a real one: the program
// is started as a child of the monitor, in the jail, with the monitor's user and
// network. There is no kernel: it is told to serve on a unix socket, to which
// the port that the kernel's parameters name is led. So it needs the token that
// a guest without a machine of its own asks for, which is added on the way.

// Places in the jail, relative to the monitor's folder.
const (
	initDir       = "guest"
	initProgram   = "init"
	initSocket    = "socket"
	initToken     = "token"
	initWorkspace = "workspace"
)

// token is what calls must carry. Nobody but the monitor can reach the socket.
const token = "of the double"

// initProcess is the first process of a machine.
type initProcess struct {
	port    int // on which it is told to listen; 0: nowhere
	program []byte
	ended   func()

	mu      sync.Mutex
	process *os.Process
	calls   chan net.Conn
}

// initOf is the first process of an initrd, nil where there is none. Its program
// is put into the machine's memory, and comes from there in every machine that
// is made of this one.
func initOf(initrd []byte, memory *memory, parameters string, ended func()) (*initProcess, error) {
	program := find(initrd, initProgram)
	if program == nil {
		return nil, nil
	}
	if len(program) > len(memory.raw) {
		return nil, refuse("Start microvm error: the initrd does not fit into %d bytes", len(memory.raw))
	}
	copy(memory.raw, program)
	return newInit(memory.raw[:len(program)], parameters, ended), nil
}

// newInit finds in the kernel's parameters where the process is to listen.
func newInit(program []byte, parameters string, ended func()) *initProcess {
	p := &initProcess{program: program, ended: ended, calls: make(chan net.Conn)}
	for _, word := range strings.Fields(parameters) {
		if port, ok := strings.CutPrefix(word, "nimbus.vsock="); ok {
			p.port, _ = strconv.Atoi(port)
		}
	}
	return p
}

// find returns a file of an archive in cpio's format "newc".
func find(archive []byte, name string) []byte {
	const headerSize = 110
	field := func(n int) int { // of 8 hexadecimal digits, behind a magic of 6
		v, err := strconv.ParseInt(string(archive[6+8*n:14+8*n]), 16, 64)
		if err != nil {
			return 0
		}
		return int(v)
	}
	align := func(n int) int { return (n + 3) &^ 3 }
	for len(archive) >= headerSize && bytes.HasPrefix(archive, []byte("070701")) {
		size, nameSize := field(6), field(11)
		content := align(headerSize + nameSize)
		next := align(content + size)
		if nameSize < 1 || next > len(archive) {
			return nil
		}
		if string(archive[headerSize:headerSize+nameSize-1]) == name {
			return archive[content : content+size]
		}
		archive = archive[next:]
	}
	return nil
}

// run starts the process, or lets it go on.
func (p *initProcess) run(console io.Writer) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.process != nil {
		return p.process.Signal(syscall.SIGCONT)
	}
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	dir := filepath.Join(here, initDir)
	err = errors.Join(
		os.MkdirAll(filepath.Join(dir, initWorkspace), 0o700),
		p.writeProgram(filepath.Join(dir, initProgram)),
		os.WriteFile(filepath.Join(dir, initToken), []byte(token), 0o600),
	)
	if _, missing := os.Stat(os.DevNull); missing != nil { // a jail has none: an empty file does
		err = errors.Join(err, os.WriteFile(os.DevNull, nil, 0o600))
	}
	if err != nil {
		return fmt.Errorf("lay out the guest: %w", err)
	}
	cmd := exec.Command(filepath.Join(dir, initProgram))
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, console, console
	cmd.Env = []string{
		"NIMBUS_GUEST_SOCKET=" + filepath.Join(dir, initSocket), "NIMBUS_GUEST_TOKEN_FILE=" + filepath.Join(dir, initToken),
		"NIMBUS_GUEST_WORKDIR=" + filepath.Join(dir, initWorkspace), "HOME=" + filepath.Join(dir, initWorkspace),
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the guest: %w", err)
	}
	p.process = cmd.Process
	go func() {
		_ = cmd.Wait() // a machine without its first process resets
		p.ended()
	}()
	go p.serve(filepath.Join(dir, initSocket))
	return nil
}

// writeProgram reads the program from the machine's memory, page by page.
func (p *initProcess) writeProgram(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o700)
	if err != nil {
		return err
	}
	page := make([]byte, pageSize)
	for rest := p.program; len(rest) > 0 && err == nil; {
		n := copy(page, rest)
		rest = rest[n:]
		_, err = f.Write(page[:n])
	}
	return errors.Join(err, f.Close())
}

// pause stops the process. A machine is paused before its job or never.
func (p *initProcess) pause() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.process == nil {
		return nil
	}
	return p.process.Signal(syscall.SIGSTOP)
}

// answers tells whether the process listens yet.
func (p *initProcess) answers() bool {
	conn, err := net.Dial("unix", filepath.Join(initDir, initSocket)) // short, wherever the folder is
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// serve leads what comes to the port on to the process.
func (p *initProcess) serve(socket string) {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: "guest"})
			r.Out.Header.Set("Authorization", "Bearer "+token)
		},
		Transport: &http.Transport{
			Protocols: &protocols,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", socket)
			},
		},
		FlushInterval: -1,
	}
	server := &http.Server{Handler: proxy, Protocols: &protocols, ReadHeaderTimeout: time.Minute}
	_ = server.Serve(p) // never ends
}

// Accept implements net.Listener.
func (p *initProcess) Accept() (net.Conn, error) { return <-p.calls, nil }

// Close implements net.Listener.
func (p *initProcess) Close() error { return nil }

// Addr implements net.Listener.
func (p *initProcess) Addr() net.Addr { return &net.UnixAddr{Name: initSocket, Net: "unix"} }

// buffered is a connection of which something was read already.
type buffered struct {
	net.Conn

	r io.Reader
}

func (b buffered) Read(p []byte) (int, error) { return b.r.Read(p) }
