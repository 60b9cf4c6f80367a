package guest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus/internal/guestlink"
)

// deviceTimeout bounds the wait for a device that the kernel will show: an
// emulated machine on a busy host takes its time.
const deviceTimeout = 30 * time.Second

// portName is what the driver calls the agent's virtio-serial port.
const portName = "agent"

// kernelParameters are those of our own on the kernel's command line.
type kernelParameters struct {
	root, rootType string // read-only root: device and file system
	rw             string // writable ext4 device, "" for memory
	tools          string // read-only device with what takes GitHub's jobs, "" where the root has it
	settle         bool   // it is booted to be saved
	vsock          uint32 // port on which the agent comes, 0 for none
}

// bootMachine makes a machine of what the kernel left: pid 1 of an initrd with
// nothing mounted. It ends inside the image's root and returns what the kernel
// was told.
func bootMachine() (p kernelParameters, err error) {
	for _, m := range []mount{
		{"proc", "/proc", "proc", 0, ""},
		{"sysfs", "/sys", "sysfs", 0, ""},
		{"devtmpfs", "/dev", "devtmpfs", 0, ""},
	} {
		if err := m.do(); err != nil {
			return p, err
		}
	}
	if err := loadModules(bootModules); err != nil {
		return p, err
	}
	if err := os.RemoveAll(bootModules); err != nil { // their memory is needed
		return p, fmt.Errorf("free the initrd: %w", err)
	}
	raw, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return p, fmt.Errorf("read kernel parameters: %w", err)
	}
	if p, err = parseParameters(string(raw)); err != nil {
		return p, err
	}
	if p.root != "" {
		if err := enterRoot(p); err != nil {
			return p, ofImage(err)
		}
	}
	if p.settle {
		return p, settle()
	}
	return p, nil
}

// settle brings what was written to the disk and frees what the kernel keeps of
// files: each page of a saved machine costs those that are made of it. Then it
// reads what takes GitHub's jobs: that is in the memory of all of them once.
func settle() error {
	unix.Sync()
	const everything = "3"
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte(everything), 0); err != nil {
		return fmt.Errorf("drop caches: %w", err)
	}
	var machine unix.Sysinfo_t
	if err := unix.Sysinfo(&machine); err != nil {
		return fmt.Errorf("read size of memory: %w", err)
	}
	const share = 4 // of the memory, at most
	preload(int64(machine.Totalram)*int64(machine.Unit)/share, runnerProgram, runnerDir+"/bin", runnerDir+"/externals")
	return nil
}

// preload has the kernel keep files, and those in folders, as far as they are
// there and have room together. It returns the room that is left.
func preload(room int64, paths ...string) int64 {
	buf := make([]byte, 256<<10)
	for _, path := range paths {
		_ = filepath.WalkDir(path, func(path string, d fs.DirEntry, err error) error { // what can't be read is read when it is needed
			if err == nil && d.Type().IsRegular() {
				room -= preloadFile(path, room, buf)
			}
			return nil
		})
	}
	return room
}

// preloadFile returns the room that a file took, 0 where it was not read.
func preloadFile(path string, room int64, buf []byte) int64 {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() > room {
		return 0
	}
	for err == nil {
		_, err = f.Read(buf)
	}
	return info.Size()
}

func parseParameters(cmdline string) (p kernelParameters, err error) {
	for _, word := range strings.Fields(cmdline) {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "nimbus.root":
			p.root = value
		case "nimbus.rootfs":
			p.rootType = value
		case "nimbus.rw":
			p.rw = value
		case "nimbus.tools":
			p.tools = value
		case "nimbus.settle":
			p.settle = true
		case "nimbus.vsock":
			port, err := strconv.ParseUint(value, 10, 32)
			if err != nil {
				return p, fmt.Errorf("kernel parameter %s: %w", word, err)
			}
			p.vsock = uint32(port)
		}
	}
	return p, nil
}

// bootModules are those that the machine's devices need, in the initrd.
const bootModules = "/modules"

// loadModules loads modules in the order of dir/order. Those that are loaded
// already stay.
func loadModules(dir string) error {
	order, err := os.Open(filepath.Join(dir, "order"))
	if err != nil {
		return fmt.Errorf("read order of modules: %w", err)
	}
	defer order.Close()
	for lines := bufio.NewScanner(order); lines.Scan(); {
		name := strings.TrimSpace(lines.Text())
		if name == "" {
			continue
		}
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			return fmt.Errorf("open module: %w", err)
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load module %s: %w", name, err)
		}
	}
	return nil
}

type mount struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

func (m mount) do() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return fmt.Errorf("make mount point %s: %w", m.target, err)
	}
	if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", m.source, m.target, err)
	}
	return nil
}

// enterRoot lays a writable layer over the image's read-only root and moves
// there.
func enterRoot(p kernelParameters) error {
	if err := awaitDevice(p.root); err != nil {
		return err
	}
	upper := mount{"tmpfs", "/rw", "tmpfs", 0, "mode=0755"}
	if p.rw != "" {
		if err := awaitDevice(p.rw); err != nil {
			return err
		}
		upper = mount{p.rw, "/rw", "ext4", unix.MS_NOATIME, ""}
	}
	mounts := []mount{{p.root, "/ro", p.rootType, unix.MS_RDONLY, ""}, upper}
	for _, m := range mounts {
		if err := m.do(); err != nil {
			return err
		}
	}
	for _, dir := range []string{"/rw/upper", "/rw/work"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("prepare writable layer: %w", err)
		}
	}
	overlay := mount{"overlay", newRoot, "overlay", 0, "lowerdir=/ro,upperdir=/rw/upper,workdir=/rw/work"}
	if err := overlay.do(); err != nil {
		return err
	}
	if p.tools != "" {
		if err := layTools(p, overlay.target); err != nil {
			return err
		}
	}
	if err := layDocker(overlay.target); err != nil {
		return err
	}
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		target := overlay.target + dir
		if err := mountPoint(target); err != nil {
			return err
		}
		if err := unix.Mount(dir, target, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", dir, err)
		}
	}
	if err := os.Remove("/init"); err != nil && !errors.Is(err, fs.ErrNotExist) { // its memory is needed no more
		return fmt.Errorf("free the initrd: %w", err)
	}
	if err := os.Chdir(overlay.target); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	return furnish()
}

// newRoot is where the image's root is until it is the machine's.
const newRoot = "/root.new"

// mountPoint makes a folder of the image's root, unless there is one. A link
// would lead out of it: it is not this machine's root yet.
func mountPoint(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = os.Mkdir(path, 0o755)
	case err == nil && !info.IsDir():
		err = &fs.PathError{Op: "mount on", Path: path, Err: unix.ENOTDIR}
	}
	if err != nil {
		return fmt.Errorf("make mount point: %w", err)
	}
	return nil
}

// imageError is a machine that can't start for what its image is: the executor
// knows it by its words, see guestlink.ImageFault.
type imageError struct{ err error }

func (e *imageError) Error() string {
	return strings.TrimPrefix(guestlink.ImageFault, "nimbus-guest: ") + strings.ReplaceAll(e.err.Error(), newRoot, "")
}
func (e *imageError) Unwrap() error { return e.err }

// ofImage tells an error apart that is the image's: something is in the way
// where the machine needs a folder.
func ofImage(err error) error {
	for _, errno := range []unix.Errno{unix.ENOTDIR, unix.EEXIST, unix.ELOOP, unix.EISDIR} {
		if errors.Is(err, errno) {
			return &imageError{err}
		}
	}
	return err
}

// furnish mounts what programs expect of a running system.
func furnish() error {
	for _, m := range []mount{
		{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,ptmxmode=0666"},
		{"tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
		{"cgroup2", "/sys/fs/cgroup", "cgroup2", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	} {
		if err := m.do(); err != nil {
			return err
		}
	}
	for link, target := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, link); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("link %s: %w", link, err)
		}
	}
	// A container image may have as good as nothing.
	for _, dir := range []string{"/etc", "/root", "/tmp", "/var/tmp"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make %s: %w", dir, err)
		}
	}
	return os.Chmod("/tmp", 0o777|fs.ModeSticky)
}

// jobCgroup makes the group in which the job runs, so that its end by lack of
// memory can be told, and so that it leaves room for the guest however many
// processes it starts. "" where the kernel has no memory controller.
func jobCgroup() string {
	const root, job = "/sys/fs/cgroup", "/sys/fs/cgroup/job"
	_ = os.WriteFile(root+"/cgroup.subtree_control", []byte("+memory +pids"), 0) // told by the file below
	if err := os.Mkdir(job, 0o755); err != nil {
		return ""
	}
	if _, err := os.Stat(job + "/memory.events"); err != nil {
		return ""
	}
	_ = os.WriteFile(job+"/pids.max", []byte(strconv.Itoa(maxProcesses())), 0) // without the controller the kernel's own bound holds
	return job
}

// maxProcesses is how many processes and threads a job may have at once: more
// than any would use that has its memory, and fewer than take it all. A bomb
// meets this bound before it meets the end of the memory.
func maxProcesses() int {
	const least, perMiB = 512, 2
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return least
	}
	return max(least, int(info.Totalram*uint64(info.Unit)>>20)*perMiB) //nolint:gosec // a machine's memory
}

func awaitDevice(path string) error {
	for deadline := time.Now().Add(deviceTimeout); ; time.Sleep(2 * time.Millisecond) { //nolint:forbidigo // there is no udev to tell
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("device %s did not appear", path)
		}
	}
}

// openPort opens the agent's port once it is there.
func openPort() (io.ReadWriteCloser, error) {
	for deadline := time.Now().Add(deviceTimeout); ; time.Sleep(2 * time.Millisecond) { //nolint:forbidigo // there is no udev to tell
		device, err := findPort()
		if err != nil {
			return nil, err
		}
		if device != "" {
			return openPortDevice(device)
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("there is no virtio-serial port %q", portName)
		}
	}
}

// findPort returns the device of the agent's port, "" where there is none.
func findPort() (string, error) {
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return "", fmt.Errorf("list ports: %w", err)
	}
	for _, path := range names {
		raw, err := os.ReadFile(path)
		if err == nil && strings.TrimSpace(string(raw)) == portName {
			return "/dev/" + filepath.Base(filepath.Dir(path)), nil
		}
	}
	return "", nil
}

// port is a virtio-serial device: its reads give nothing while no host is
// connected, which is no end.
type port struct{ fd int }

func openPortDevice(path string) (io.ReadWriteCloser, error) {
	// Not by os.OpenFile: its poller takes the missing host for an end.
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open port: %w", err)
	}
	return &port{fd: fd}, nil
}

func (p *port) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(p.fd, b)
		switch {
		case n > 0:
			return n, nil
		case err == nil || errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN):
			time.Sleep(2 * time.Millisecond) //nolint:forbidigo // no host is connected, and nothing tells when one is
		default:
			return 0, fmt.Errorf("read port: %w", err)
		}
	}
}

func (p *port) Write(b []byte) (done int, err error) {
	for done < len(b) {
		n, err := unix.Write(p.fd, b[done:])
		if n > 0 {
			done += n
		}
		if err != nil && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return done, fmt.Errorf("write port: %w", err)
		}
	}
	return done, nil
}

func (p *port) Close() error { return unix.Close(p.fd) }
