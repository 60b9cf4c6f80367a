// Package door is how the first process of a sandbox meets its shim where
// somebody else starts it, as a container's daemon does.
//
// The shim listens at a socket that the sandbox has, read-only, in a folder of
// its own. The first process, before anything of the job runs, comes in by it
// and is told apart from all others by its credentials. It gets a token, and
// the listener on which it is to serve the agent, whose path no sandbox has.
// Then the socket is gone. Both sides keep the connection: its end tells each of
// them that the other is no more.
package door

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// meeting bounds what is said at the door: both sides are processes that run.
const meeting = 20 * time.Second

// maxToken is the longest token.
const maxToken = 256

// ready is what the process says once it has what it came for.
const ready = 'k'

// Visitor is a process that came in by the door.
type Visitor struct {
	PID  int      // as this side sees it
	FD   int      // a pidfd of it, the caller's to close
	Conn net.Conn // ends with the process
}

// Accept takes the first process that comes, and gives it a listener and a
// token.
func Accept(l *net.UnixListener, serve *os.File, token string) (Visitor, error) {
	conn, err := l.AcceptUnix()
	if err != nil {
		return Visitor{}, fmt.Errorf("wait at the door: %w", err)
	}
	v := Visitor{Conn: conn}
	if v.PID, v.FD, err = identify(conn); err != nil {
		conn.Close()
		return Visitor{}, err
	}
	if err := welcome(conn, serve, token); err != nil {
		conn.Close()
		unix.Close(v.FD)
		return Visitor{}, err
	}
	return v, nil
}

// identify finds who connected. The number is that of the process for as long as
// it answers, which it is asked to by welcome: until then nobody relies on it.
func identify(conn *net.UnixConn) (pid, fd int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, -1, fmt.Errorf("look who is at the door: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(s uintptr) { cred, credErr = unix.GetsockoptUcred(int(s), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, -1, fmt.Errorf("look who is at the door: %w", err)
	}
	if credErr != nil {
		return 0, -1, fmt.Errorf("look who is at the door: %w", credErr)
	}
	if cred.Pid <= 1 {
		return 0, -1, errors.New("look who is at the door: it can't be told")
	}
	if fd, err = unix.PidfdOpen(int(cred.Pid), 0); err != nil {
		return 0, -1, fmt.Errorf("hold on to who is at the door: %w", err)
	}
	return int(cred.Pid), fd, nil
}

func welcome(conn *net.UnixConn, serve *os.File, token string) error {
	if err := conn.SetDeadline(time.Now().Add(meeting)); err != nil {
		return fmt.Errorf("welcome: %w", err)
	}
	if _, _, err := conn.WriteMsgUnix([]byte(token), unix.UnixRights(int(serve.Fd())), nil); err != nil {
		return fmt.Errorf("welcome: %w", err)
	}
	var answer [1]byte
	if _, err := conn.Read(answer[:]); err != nil {
		return fmt.Errorf("welcome: it did not answer: %w", err)
	}
	if answer[0] != ready {
		return errors.New("welcome: it answered something else")
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return fmt.Errorf("welcome: %w", err)
	}
	return nil
}

// Enter goes in by the door at path, and returns what it got there. The
// connection is to be kept: its end is the shim's.
func Enter(path string) (serve net.Listener, token string, shim net.Conn, err error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, "", nil, fmt.Errorf("enter the sandbox: %w", err)
	}
	serve, token, err = greet(conn)
	if err != nil {
		conn.Close()
		return nil, "", nil, fmt.Errorf("enter the sandbox: %w", err)
	}
	return serve, token, conn, nil
}

func greet(conn *net.UnixConn) (net.Listener, string, error) {
	if err := conn.SetDeadline(time.Now().Add(meeting)); err != nil {
		return nil, "", err
	}
	said, rights := make([]byte, maxToken), make([]byte, unix.CmsgSpace(4))
	n, more, _, _, err := conn.ReadMsgUnix(said, rights)
	if err != nil {
		return nil, "", err
	}
	file, err := received(rights[:more])
	if err != nil {
		return nil, "", err
	}
	defer file.Close() // the listener has its own
	serve, err := net.FileListener(file)
	if err != nil {
		return nil, "", err
	}
	if _, err := conn.Write([]byte{ready}); err != nil {
		return nil, "", err
	}
	return serve, string(said[:n]), conn.SetDeadline(time.Time{})
}

// received is the one file that came with a message.
func received(rights []byte) (*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	for i := range messages {
		if fds, err := unix.ParseUnixRights(&messages[i]); err == nil && len(fds) == 1 {
			unix.CloseOnExec(fds[0])
			return os.NewFile(uintptr(fds[0]), "agent"), nil
		}
	}
	return nil, errors.New("nothing to serve on was given")
}
