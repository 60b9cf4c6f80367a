// Command jailer is a double of Firecracker's jailer for tests: it takes the
// same arguments, refuses the same ones, and locks a program up in the same way.
// It makes no cgroups.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// version is the one of the double of Firecracker.
const version = "1.17.0-dev"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type options struct {
	id, exec, base, netns string
	uid, gid              int
	limits                []string
	args                  []string
}

// parse takes what stands before "--"; the rest is the program's.
func parse(args []string) (o options, err error) {
	for i, a := range args {
		if a == "--" {
			args, o.args = args[:i], args[i+1:]
			break
		}
	}
	flags := flag.NewFlagSet("jailer", flag.ContinueOnError)
	flags.StringVar(&o.id, "id", "", "")
	flags.StringVar(&o.exec, "exec-file", "", "")
	flags.StringVar(&o.base, "chroot-base-dir", "/srv/jailer", "")
	flags.StringVar(&o.netns, "netns", "", "")
	flags.IntVar(&o.uid, "uid", -1, "")
	flags.IntVar(&o.gid, "gid", -1, "")
	flags.Func("resource-limit", "", func(s string) error { o.limits = append(o.limits, s); return nil })
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("failed to parse arguments: found argument '%s' which wasn't expected", flags.Arg(0))
	case o.id == "" || len(o.id) > 64 || strings.ContainsFunc(o.id, func(r rune) bool {
		return r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}):
		return o, errors.New("invalid instance ID")
	case o.uid < 0 || o.gid < 0:
		return o, errors.New("failed to parse arguments: argument 'uid' or 'gid' required, but not found")
	}
	if o.exec, err = filepath.EvalSymlinks(o.exec); err == nil {
		o.base, err = filepath.EvalSymlinks(o.base)
	}
	return o, err
}

func run(args []string) error {
	if len(args) == 1 && args[0] == "--version" {
		_, err := fmt.Fprintf(os.Stdout, "Jailer v%s\n", version)
		return err
	}
	runtime.LockOSThread() // namespaces are a thread's
	if err := unix.CloseRange(3, 1<<31, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return err
	}
	o, err := parse(args)
	if err != nil {
		return err
	}
	name := filepath.Base(o.exec)
	root := filepath.Join(o.base, name, o.id, "root")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	if err := copyProgram(filepath.Join(root, name), o); err != nil {
		return err
	}
	if err := furnish(root, o); err != nil {
		return err
	}
	if o.netns != "" {
		if err := enter(o.netns); err != nil {
			return err
		}
	}
	if err := limit(o.limits); err != nil {
		return err
	}
	if err := lockUp(root, o); err != nil {
		return err
	}
	argv := append([]string{"/" + name, "--id", o.id, "--start-time-us", "1", "--start-time-cpu-us", "1", "--parent-cpu-time-us", "1"}, o.args...)
	return syscall.Exec(argv[0], argv, []string{})
}

// copyProgram copies, and never links: two monitors share no memory.
func copyProgram(path string, o options) error {
	in, err := os.Open(o.exec)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|unix.O_NOFOLLOW, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Chown(o.uid, o.gid), out.Close())
}

// shell has the programs that a job may run, where the machine has it.
const shell = "/bin/busybox"

// furnish puts beside the monitor what a guest has in a root of its own, which
// the double has not: a shell.
func furnish(root string, o options) error {
	raw, err := os.ReadFile(shell)
	if errors.Is(err, os.ErrNotExist) {
		return nil // guests then run what they bring along
	}
	bin := filepath.Join(root, "bin")
	err = errors.Join(err, os.MkdirAll(bin, 0o755), os.WriteFile(filepath.Join(bin, "busybox"), raw, 0o755)) //nolint:gosec // a program
	for _, name := range []string{"sh", "cat", "env", "head", "mkdir", "pwd", "setsid", "sha256sum", "sleep", "tail", "wc"} {
		err = errors.Join(err, os.Symlink("busybox", filepath.Join(bin, name)))
	}
	tmp := filepath.Join(root, "tmp")
	return errors.Join(err, os.MkdirAll(tmp, 0o700), os.Chown(tmp, o.uid, o.gid))
}

func enter(netns string) error {
	f, err := os.Open(netns)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
}

func limit(limits []string) error {
	files := uint64(2048)
	for _, l := range limits {
		name, value, _ := strings.Cut(l, "=")
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			return err
		}
		switch name {
		case "no-file":
			files = n
		case "fsize":
			if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: n, Max: n}); err != nil {
				return err
			}
		default:
			return fmt.Errorf("invalid resource limit argument %s", name)
		}
	}
	return syscall.Setrlimit(unix.RLIMIT_NOFILE, &syscall.Rlimit{Cur: files, Max: files})
}

// lockUp makes root the whole file system, with the devices that a monitor needs,
// and drops all privileges.
func lockUp(root string, o options) error {
	minor := userfaultfd()
	steps := []func() error{
		func() error { return unix.Unshare(unix.CLONE_NEWNS) },
		func() error { return unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, "") },
		func() error { return unix.Mount(root, root, "", unix.MS_BIND|unix.MS_REC, "") },
		func() error { return unix.Chdir(root) },
		func() error { return unix.PivotRoot(".", ".") },
		func() error { return unix.Unmount(".", unix.MNT_DETACH) },
		func() error { return unix.Chroot(".") },
		func() error { return unix.Chdir("/") },
	}
	for _, dir := range []string{"/", "/dev", "/dev/net", "/run"} {
		steps = append(steps, func() error {
			return errors.Join(os.MkdirAll(dir, 0o700), os.Chmod(dir, 0o700), os.Chown(dir, o.uid, o.gid))
		})
	}
	for path, device := range map[string]uint64{
		"/dev/net/tun": unix.Mkdev(10, 200), "/dev/kvm": unix.Mkdev(10, 232), "/dev/urandom": unix.Mkdev(1, 9), "/dev/zero": unix.Mkdev(1, 5), // the last for guests alone
		"/dev/userfaultfd": unix.Mkdev(10, minor),
	} {
		if minor == 0 && path == "/dev/userfaultfd" {
			continue
		}
		steps = append(steps, func() error {
			return errors.Join(unix.Mknod(path, unix.S_IFCHR|0o600, int(device)), os.Chown(path, o.uid, o.gid))
		})
	}
	steps = append(steps,
		func() error { return syscall.Setgroups(nil) },
		func() error { return syscall.Setgid(o.gid) },
		func() error { return syscall.Setuid(o.uid) },
	)
	for _, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("lock up: %w", err)
		}
	}
	return nil
}

// userfaultfd is the minor number of the device, 0 when there is none.
func userfaultfd() uint32 {
	f, err := os.Open("/proc/misc")
	if err != nil {
		return 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if number, name, ok := strings.Cut(strings.TrimSpace(lines.Text()), " "); ok && name == "userfaultfd" {
			n, err := strconv.ParseUint(number, 10, 32)
			if err == nil {
				return uint32(n)
			}
		}
	}
	return 0
}
