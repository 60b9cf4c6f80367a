package guest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A docker daemon in a machine: nobody pays for it who doesn't use it. The guest
// holds its socket, and starts it when the first client has come.
const (
	// dockerModules has the modules of the kernel that the daemon needs. An image
	// that has it has a daemon.
	dockerModules = "/usr/lib/nimbus/docker/modules"
	dockerData    = "/var/lib/docker"
	dockerDisk    = "/rw/docker" // where that is, on the job's own disk
	dockerSocket  = "/run/docker.sock"
	dockerLog     = "/var/log/docker.log"
	dockerGroup   = "docker"
	// dockerSettings has the daemon's settings, which steps may change.
	dockerSettings = "/etc/docker/daemon.json"
)

// Groups of processes, beside the job's: of the daemon with what it runs
// containers by, and of containers, where their daemon makes them.
const (
	daemonCgroup     = "/sys/fs/cgroup/daemon"
	containersCgroup = "/sys/fs/cgroup/docker"
)

// dockerWords is how much of what a daemon said before it ended is told.
const dockerWords = 1 << 10

// docker is the daemon of a machine.
type docker struct {
	tree   *namespace
	events *events
	socket *os.File // that listens
	begin  func() (*os.Process, error)
	waits  patience
}

// layDocker puts the daemon's data on the job's own disk: what is over the
// image's root can't carry what containers lay over theirs.
func layDocker(root string) error {
	if _, err := os.Stat(root + dockerModules); err != nil {
		return nil //nolint:nilerr // there is no daemon
	}
	const private = 0o710 // as the daemon has it
	for _, dir := range []string{dockerDisk, root + dockerData} {
		if err := os.MkdirAll(dir, private); err != nil {
			return fmt.Errorf("prepare docker's folder: %w", err)
		}
	}
	if err := unix.Mount(dockerDisk, root+dockerData, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("prepare docker's folder: %w", err)
	}
	return nil
}

// openDocker listens for clients of the daemon; nil where the image has none.
func openDocker(tree *namespace, e *events) (*docker, error) {
	if _, err := os.Stat(dockerModules); err != nil {
		return nil, nil //nolint:nilnil // there is no daemon
	}
	d := &docker{tree: tree, events: e, waits: defaultPatience()}
	d.begin = d.start
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dockerSocket, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for docker's clients: %w", err)
	}
	defer l.Close() // the file goes on listening
	l.SetUnlinkOnClose(false)
	if d.socket, err = l.File(); err != nil {
		return nil, fmt.Errorf("hold docker's socket: %w", err)
	}
	group, err := lookGroup(dockerGroup)
	if err != nil {
		return nil, err
	}
	const ownerAndGroup = 0o660
	if err := errors.Join(os.Chmod(dockerSocket, ownerAndGroup), os.Chown(dockerSocket, 0, group)); err != nil {
		return nil, fmt.Errorf("open docker's socket: %w", err)
	}
	return d, nil
}

// lookGroup finds a group in the image's files; root's is in its place.
func lookGroup(name string) (gid int, err error) {
	err = scanFile("/etc/group", func(f []string) {
		if len(f) >= 3 && f[0] == name {
			gid, _ = strconv.Atoi(f[2]) // 0 is root's
		}
	})
	return gid, err
}

func (d *docker) say(what string) { d.events.output("stderr", []byte("nimbus: "+what+"\n")) }

// start starts the daemon.
func (d *docker) start() (*os.Process, error) {
	if err := loadModules(dockerModules); err != nil {
		return nil, err
	}
	if err := makeDaemonGroups(); err != nil {
		return nil, err
	}
	program, err := lookPath("dockerd", "/", nil)
	if err != nil {
		return nil, err
	}
	// The number of the process that has the socket is known to itself alone.
	const begin = `export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@"`
	argv := append([]string{"/bin/sh", "-c", begin, "sh", program, "--host", "fd://"}, noNames("/etc/resolv.conf", dockerSettings)...)
	log, err := os.OpenFile(dockerLog, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open docker's log: %w", err)
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, fmt.Errorf("open empty input: %w", err)
	}
	defer null.Close()
	p, err := d.tree.startIn(daemonCgroup, argv[0], argv, &os.ProcAttr{
		Dir: "/", Env: []string{"PATH=" + defaultPath, "HOME=/root"}, Files: []*os.File{null, log, log, d.socket},
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, fmt.Errorf("start dockerd: %w", err)
	}
	d.tree.beside.Store(true)
	return p, nil
}

// noNames are the daemon's settings where the machine asks nobody for names: it
// would give containers public resolvers, of which they never hear. At an address
// of their own they are refused at once. What a step has set comes first.
func noNames(resolv, settings string) []string {
	servers, err := os.ReadFile(resolv)
	own, _ := os.ReadFile(settings) // there may be none
	if err != nil || strings.Contains(string(servers), "nameserver ") || strings.Contains(string(own), `"dns"`) {
		return nil
	}
	return []string{"--dns", "127.0.0.1"}
}

// makeDaemonGroups bounds containers as the job is: together they leave room for
// the guest.
func makeDaemonGroups() error {
	for _, dir := range []string{daemonCgroup, containersCgroup} {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make docker's cgroups: %w", err)
		}
	}
	_ = os.WriteFile(filepath.Join(containersCgroup, "pids.max"), []byte(strconv.Itoa(maxProcesses())), 0) // as of the job's
	return nil
}

// logSize is what daemons have said so far.
func logSize() int64 {
	info, err := os.Stat(dockerLog)
	if err != nil {
		return 0
	}
	return info.Size()
}

// lastWords is the end of what a daemon said, in one line.
func lastWords(from int64) string {
	f, err := os.Open(dockerLog)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	raw := make([]byte, dockerWords)
	n, err := f.ReadAt(raw, max(from, logSize()-dockerWords))
	if err != nil && !errors.Is(err, io.EOF) {
		return err.Error()
	}
	return strings.Join(strings.Fields(string(raw[:n])), " ")
}
