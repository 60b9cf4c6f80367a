package shim

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus/internal/door"
)

// visitor is a first process that somebody else starts, and that comes in by the
// door. It is held by a pidfd, so that nothing else is ever killed in its place,
// and it ends by itself when its shim does.
type visitor struct {
	log   *slog.Logger
	spec  Door
	door  *net.UnixListener
	serve *os.File // what it serves on, until it has it
	there chan struct{}

	mu     sync.Mutex
	number int // of the process, 0 before it came
	fd     int
	killed bool
}

// openDoor makes the sockets that the first process comes by and serves on. The
// shim works in its folder.
func (s *server) openDoor(d Door) error {
	v := &visitor{log: s.log, spec: d, there: make(chan struct{}), fd: -1}
	serve, err := listenAt(d.Serve)
	if err != nil {
		return err
	}
	defer serve.Close() // the file goes on listening
	if v.serve, err = serve.File(); err != nil {
		return fmt.Errorf("hold the agent's socket: %w", err)
	}
	if v.door, err = listenAt(d.Socket); err != nil {
		v.serve.Close()
		return err
	}
	// Root of another user namespace is another user; who gets to the folder is
	// up to who made it.
	const anybody = 0o666
	if err := os.Chmod(d.Socket, anybody); err != nil {
		v.serve.Close()
		v.door.Close()
		return fmt.Errorf("open the door: %w", err)
	}
	s.drained = make(chan struct{})
	close(s.drained) // what it writes is its daemon's to keep
	s.process = v
	return nil
}

// listenAt listens at a name in the shim's folder, which stays when the listener
// closes.
func listenAt(name string) (*net.UnixListener, error) {
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	old := unix.Umask(0o177)
	defer unix.Umask(old)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for the sandbox: %w", err)
	}
	l.SetUnlinkOnClose(false)
	return l, nil
}

func (v *visitor) pid() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.number
}

func (v *visitor) came() <-chan struct{} { return v.there }

// kill ends the process. One that has not come finds no door, and ends by itself.
func (v *visitor) kill() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.killed = true
	v.door.Close()
	if v.fd >= 0 {
		_ = unix.PidfdSendSignal(v.fd, unix.SIGKILL, nil, 0)
	}
}

func (v *visitor) wait() Exit {
	unknown := Exit{Code: -1}
	guest, err := door.Accept(v.door, v.serve, v.spec.Token)
	v.serve.Close()
	v.door.Close()
	os.Remove(v.spec.Socket)
	if err != nil {
		v.log.Warn("the first process did not come", "error", err)
		return unknown
	}
	defer guest.Conn.Close()
	v.take(guest)
	v.log.Info("the first process came", "pid", guest.PID)
	counted, groupErr := groupOf(guest.PID)
	if groupErr != nil {
		v.log.Warn("its use can't be told", "error", groupErr)
	}
	if err := awaitExit(guest.FD); err != nil {
		v.log.Error("watch the first process", "error", err)
	}
	// Its daemon removes the group, but has to hear of the end first.
	ended := Exit{Code: -1}
	ended.Usage, ended.OOMKills = counted.final()
	v.mu.Lock()
	defer v.mu.Unlock()
	unix.Close(v.fd)
	v.fd = -1
	return ended
}

// take notes who came, and ends it where that was asked for meanwhile.
func (v *visitor) take(guest door.Visitor) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.number, v.fd = guest.PID, guest.FD
	close(v.there)
	if v.killed {
		_ = unix.PidfdSendSignal(v.fd, unix.SIGKILL, nil, 0) // gone already is fine
	}
}

// awaitExit returns once the process of a pidfd has ended, and with it all of its
// PID namespace, if it is the first of one.
func awaitExit(pidfd int) error {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, -1) //nolint:gosec // a descriptor
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for the process: %w", err)
		}
		if n > 0 {
			return nil
		}
	}
}
