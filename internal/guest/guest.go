// Package guest is what runs inside every sandbox: it starts the one job that
// the sandbox is for, hands its output to the host agent and tells how it
// ended.
//
// In a microVM it is pid 1: it mounts, loads modules, enters the image's root
// and serves on vsock or a virtio-serial port, see channels. Under the local
// executor it serves on a unix socket instead:
//
//	NIMBUS_GUEST_SOCKET      path of the socket that it makes
//	NIMBUS_GUEST_TOKEN_FILE  file with the token that calls must carry; read
//	                         and removed at once, so that the job, which shares
//	                         the file system, does not have it
//	NIMBUS_GUEST_WORKDIR     the workspace
//
// In a container it is given what it serves on, and the token, at its shim's
// door, so that the job has neither:
//
//	NIMBUS_GUEST_DOOR        path of the socket by which it comes in
//	NIMBUS_GUEST_WORKDIR     the workspace
//	NIMBUS_GUEST_DISKS       where fresh file systems are mounted, a:b:c
//
// Whatever comes out of a sandbox is the tenant's: the agent bounds and
// distrusts it. The other way round the guest trusts the agent.
package guest

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus/api/gen/nimbus/v1/nimbusv1connect"
)

// workspaceDir is the workspace of a machine.
const workspaceDir = "/workspace"

// maxMessage bounds one message of the agent: a chunk of a workspace.
const maxMessage = 1 << 20

// streamBuffer is how much of one call waits to be read.
const streamBuffer = 256 << 10

// Main runs the guest until the sandbox is destroyed, and returns an exit code
// when it can't.
func Main(version string, stderr io.Writer) int {
	err := run(version)
	fmt.Fprintln(stderr, "nimbus-guest:", err)
	if os.Getpid() == 1 && os.Getenv("NIMBUS_GUEST_SOCKET") == "" && os.Getenv("NIMBUS_GUEST_DOOR") == "" {
		// A machine whose first process ends would panic: say why, then stop it.
		unix.Sync()
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) // returns only on failure
	}
	return 1
}

func run(version string) error {
	s := &service{version: version, events: newEvents()}
	var agents []net.Listener
	var token string
	var err error
	socket, way := os.Getenv("NIMBUS_GUEST_SOCKET"), os.Getenv("NIMBUS_GUEST_DOOR")
	switch {
	case way != "":
		agents, token, err = s.setUpContainer(way)
	case socket != "":
		agents, token, err = s.setUpLocal(socket)
	case os.Getpid() == 1:
		agents, err = s.setUpMachine()
	default:
		err = errors.New("it runs inside a sandbox, started by the Nimbus host agent")
	}
	if err != nil {
		return err
	}
	if !s.machine { // whose job has a bound of its own
		keepThreads()
	}
	if n, ok := s.tree.(*namespace); ok {
		go n.reap() // for as long as the guest lives
	}
	return serve(agents, s, token)
}

func (s *service) setUpMachine() ([]net.Listener, error) {
	p, err := bootMachine()
	if err != nil {
		return nil, err
	}
	s.machine, s.workspace = true, workspaceDir
	group := jobCgroup()
	tree := &namespace{cgroup: group, limits: limitsOf(group), disks: []string{"/"}}
	s.tree = tree
	daemon, err := openDocker(tree, s.events)
	if err != nil {
		return nil, ofImage(err)
	}
	if daemon != nil {
		go daemon.serve()
	}
	if err := os.MkdirAll(workspaceDir, 0o755); err != nil {
		return nil, ofImage(fmt.Errorf("make workspace: %w", err))
	}
	return channels(p)
}

func (s *service) setUpLocal(socket string) ([]net.Listener, string, error) {
	s.workspace = os.Getenv("NIMBUS_GUEST_WORKDIR")
	s.tree = &session{}
	if os.Getpid() == 1 {
		s.tree = &namespace{limits: ownLimits(), expendable: true}
		// Processes of the namespace are seen in a /proc of its own.
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return nil, "", fmt.Errorf("make mounts private: %w", err)
		}
		if err := (mount{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""}).do(); err != nil {
			return nil, "", err
		}
	}
	file := os.Getenv("NIMBUS_GUEST_TOKEN_FILE")
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, "", fmt.Errorf("read token: %w", err)
	}
	if err := os.Remove(file); err != nil {
		return nil, "", fmt.Errorf("remove token file: %w", err)
	}
	token := strings.TrimSpace(string(raw))
	if token == "" {
		return nil, "", errors.New("the token is empty")
	}
	old := unix.Umask(0o177)
	defer unix.Umask(old)
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", socket)
	if err != nil {
		return nil, "", fmt.Errorf("listen for the agent: %w", err)
	}
	return []net.Listener{l}, token, nil
}

// serve answers calls over HTTP/2 without TLS, until one of the listeners fails.
func serve(agents []net.Listener, s *service, token string) error {
	mux := http.NewServeMux()
	mux.Handle(nimbusv1connect.NewGuestServiceHandler(s, connect.WithReadMaxBytes(maxMessage)))
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	patience := time.Minute
	if s.machine {
		// Only the agent can connect. It does so before a machine waits for its job,
		// paused; how much time has passed when it goes on is up to its clock.
		patience = 0
	}
	server := &http.Server{
		Handler: authorize(mux, token), Protocols: &protocols, ReadHeaderTimeout: patience,
		// What a shell does not read waits in its own stream: all shells together
		// leave most of the connection to the job's own calls.
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 32, MaxReceiveBufferPerStream: streamBuffer, MaxReceiveBufferPerConnection: 4 * maxShells * streamBuffer},
	}
	failed := make(chan error, len(agents))
	for _, l := range agents {
		go func() { failed <- server.Serve(l) }()
	}
	return fmt.Errorf("serve the agent: %w", <-failed)
}

// authorize lets only the agent in, where job code can reach the socket.
func authorize(next http.Handler, token string) http.Handler {
	if token == "" {
		return next
	}
	want := []byte("Bearer " + token)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), want) != 1 {
			http.Error(w, "only the host agent may call", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}
