package guest

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// openTerminal makes a terminal of a size: the side that we read and write, and
// the one that a process has. The second is not looked up by its name, which
// the job may have put something else under.
func openTerminal(size *nimbusv1.WindowSize, as account) (ours, theirs *os.File, err error) {
	// Not blocking, so that closing it wakes who reads.
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open a terminal: %w", err)
	}
	ours = os.NewFile(uintptr(fd), "terminal")
	defer func() {
		if err != nil {
			ours.Close()
		}
	}()
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, fmt.Errorf("unlock the terminal: %w", err)
	}
	if err := resize(ours, size); err != nil {
		return nil, nil, err
	}
	peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return nil, nil, fmt.Errorf("open the terminal's other side: %w", errno)
	}
	theirs = os.NewFile(peer, "terminal")
	if as.uid != uint32(os.Geteuid()) {
		if err := theirs.Chown(int(as.uid), int(as.gid)); err != nil {
			theirs.Close()
			return nil, nil, fmt.Errorf("give the terminal to %s: %w", as.name, err)
		}
	}
	return ours, theirs, nil
}

// resize tells a terminal its size, and the kernel whatever runs in it.
func resize(terminal *os.File, size *nimbusv1.WindowSize) error {
	const most = 1000
	rows, columns := size.GetRows(), size.GetColumns()
	if rows < 1 || columns < 1 || rows > most || columns > most {
		return fmt.Errorf("resize the terminal to %dx%d: %w", rows, columns, unix.EINVAL)
	}
	conn, err := terminal.SyscallConn()
	if err != nil {
		return fmt.Errorf("resize the terminal: %w", err)
	}
	var errno unix.Errno
	err = conn.Control(func(fd uintptr) {
		ws := unix.Winsize{Row: uint16(rows), Col: uint16(columns)}
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, unix.TIOCSWINSZ, uintptr(unsafe.Pointer(&ws)))
	})
	if err == nil && errno != 0 {
		err = errno
	}
	if err != nil {
		return fmt.Errorf("resize the terminal: %w", err)
	}
	return nil
}
