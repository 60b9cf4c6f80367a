package guest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus/internal/door"
)

// setUpContainer makes a guest of the first process of a container, whose daemon
// has made all else. It comes in by its shim's door, and ends when the shim does.
func (s *service) setUpContainer(path string) ([]net.Listener, string, error) {
	if os.Getpid() != 1 {
		return nil, "", errors.New("in a container it is the first process")
	}
	// The job may be the same user, and is not to look into this process, nor to
	// take what it has open.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return nil, "", fmt.Errorf("hide from the job: %w", err)
	}
	// Its shim ends it, and nobody else: not its job, and not a daemon that is told
	// to end as it starts a container, and then ends that in spite of live-restore.
	// What it says goes to the daemon, which may be away. Ignored signals would be
	// the job's, too.
	signal.Notify(make(chan os.Signal, 1), unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE)
	agents, token, shim, err := door.Enter(path)
	if err != nil {
		return nil, "", err
	}
	if token == "" {
		return nil, "", errors.New("the token is empty")
	}
	go func() { // ends this process, and so the container
		_, err := io.Copy(io.Discard, shim)
		fmt.Fprintln(os.Stderr, "nimbus-guest: its shim is gone:", err)
		os.Exit(1)
	}()
	s.workspace = os.Getenv("NIMBUS_GUEST_WORKDIR")
	fresh := filepath.SplitList(os.Getenv("NIMBUS_GUEST_DISKS"))
	for _, disk := range fresh {
		if err := tidyDisk(disk); err != nil {
			return nil, "", err
		}
	}
	// Where they are no file systems of files, the same folders are in memory.
	s.tree = &namespace{limits: ownLimits(), expendable: true, disks: append(fresh, s.workspace, "/tmp", os.Getenv("HOME"))}
	return []net.Listener{agents}, token, nil
}

// tidyDisk makes a fresh file system look like a folder.
func tidyDisk(dir string) error {
	if err := os.Remove(filepath.Join(dir, "lost+found")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("tidy disk: %w", err)
	}
	if dir != "/tmp" {
		return nil
	}
	if err := os.Chmod(dir, 0o777|fs.ModeSticky); err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	return nil
}
