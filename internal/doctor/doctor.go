// Package doctor looks at a machine as somebody would whose jobs don't run.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/host"
	"github.com/nimbus-ci/nimbus/internal/programs"
)

// Status is how a check ended.
type Status string

// The statuses.
const (
	OK   Status = "ok"
	Warn Status = "warn" // works, but not for everybody or not for long
	Fail Status = "fail"
)

// Check is one thing that was looked at.
type Check struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	Detail string `json:"detail"`
	Hint   string `json:"hint,omitempty"` // the next step
}

// Machine is what is looked at.
type Machine struct {
	Data     string // the data directory
	Server   string // address of the server
	Images   string // folder of images, see host.Config
	VMM      string // the monitor that the agent is told to use, see host.Config
	Programs programs.Finder

	Executors []string // that the agent is told to use; all when none is named

	DockerHost string // the daemon that the agent is told to use, see host.Config
}

// Examine makes all checks; each ends within ctx and none needs another.
func Examine(ctx context.Context, m Machine) []Check {
	checks := []Check{m.kernel(), m.user(), m.device(), m.cgroups(), m.disk(), m.data(), m.clock(), m.port(ctx)}
	checks = append(checks, kernelTree{"/"}.advice()...)
	return append(checks, m.executors(ctx)...)
}

func (m Machine) kernel() Check {
	const wanted = "5.14" // cgroup.kill
	c := Check{Name: "kernel", Status: OK}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return Check{"kernel", Fail, "can't be asked: " + err.Error(), ""}
	}
	release := unix.ByteSliceToString(u.Release[:])
	c.Detail = "Linux " + release
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil || major < 5 || major == 5 && minor < 14 {
		c.Status, c.Hint = Warn, "Linux "+wanted+" or newer ends a sandbox' processes in one step"
	}
	return c
}

func (m Machine) user() Check {
	if os.Geteuid() == 0 {
		return Check{Name: "user", Status: OK, Detail: "root"}
	}
	return Check{"user", Warn, "not root", "microVMs need root for network namespaces and taps: sudo nimbus doctor"}
}

func (m Machine) device() Check {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err == nil {
		f.Close()
		return Check{Name: "tun", Status: OK, Detail: "/dev/net/tun can be opened"}
	}
	c := Check{"tun", Warn, "microVMs can have no network: " + err.Error(), "as root: modprobe tun"}
	if errors.Is(err, fs.ErrPermission) {
		c.Hint = "run as root"
	}
	return c
}

func (m Machine) cgroups() Check {
	v2, err2 := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	if err2 == nil && strings.Contains(string(v2), "memory") {
		return Check{Name: "cgroups", Status: OK, Detail: "v2: " + strings.TrimSpace(string(v2))}
	}
	if _, err := os.Stat("/sys/fs/cgroup/memory"); err == nil {
		return Check{Name: "cgroups", Status: OK, Detail: "v1, or a hybrid of v1 and v2"}
	}
	return Check{"cgroups", Warn, "no memory controller is mounted: jobs have no limit on this machine", "mount cgroup2, or boot with systemd.unified_cgroup_hierarchy=1"}
}

// Free space below which a machine soon can't run jobs, and already can't.
const (
	littleDisk = 10 << 30
	noDisk     = 1 << 30
)

func (m Machine) disk() Check {
	dir := existing(m.Data)
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return Check{"disk", Fail, fmt.Sprintf("%s can't be asked: %s", dir, err), ""}
	}
	free := int64(s.Bavail) * s.Bsize
	c := Check{Name: "disk", Status: OK, Detail: fmt.Sprintf("%.1f GiB free at %s", float64(free)/(1<<30), dir)}
	switch {
	case free < noDisk:
		c.Status, c.Hint = Fail, "make room, or choose another place with --data"
	case free < littleDisk:
		c.Status, c.Hint = Warn, "an image takes up to 1 GiB, and each sandbox what its job writes"
	}
	return c
}

// existing is the nearest directory above path that is there.
func existing(path string) string {
	for path != "/" && path != "." {
		if _, err := os.Stat(path); err == nil {
			return path
		}
		path = filepath.Dir(path)
	}
	return path
}

// data: what is in the data directory is for its owner's eyes alone.
func (m Machine) data() Check {
	info, err := os.Stat(m.Data)
	if errors.Is(err, fs.ErrNotExist) {
		return Check{Name: "data", Status: OK, Detail: m.Data + " will be made at the first start"}
	}
	if err != nil {
		return Check{"data", Fail, err.Error(), "choose another place with --data"}
	}
	for _, name := range []string{".", "master.key", "admin.token", "nimbus.db", filepath.Join("agent", "credential.json")} {
		path := filepath.Join(m.Data, name)
		if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
			return Check{"data", Fail, fmt.Sprintf("others can get at %s (mode %04o)", path, info.Mode().Perm()), "chmod -R go= " + m.Data}
		}
	}
	if err := unix.Access(m.Data, unix.W_OK); err != nil {
		return Check{"data", Warn, m.Data + " can't be written to by this user", "run as the user that runs nimbus up"}
	}
	return Check{Name: "data", Status: OK, Detail: fmt.Sprintf("%s (mode %04o)", m.Data, info.Mode().Perm())}
}

// clock: GitHub refuses an App's token that is a minute off, and TLS worse.
func (m Machine) clock() Check {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	switch {
	case time.Now().Year() < 2025:
		return Check{"clock", Fail, "it is " + time.Now().Format(time.DateOnly) + " here", "set the clock: timedatectl set-ntp true"}
	case err != nil || state == unix.TIME_ERROR:
		return Check{"clock", Warn, "nothing keeps the clock right", "GitHub refuses what is a minute off: timedatectl set-ntp true"}
	}
	return Check{Name: "clock", Status: OK, Detail: "is kept right"}
}

func (m Machine) port(ctx context.Context) Check {
	u, err := url.Parse(m.Server)
	if err != nil || u.Host == "" {
		return Check{"server", Fail, fmt.Sprintf("%q is no address", m.Server), "an address looks like http://127.0.0.1:8080"}
	}
	address := u.Host
	if u.Port() == "" {
		address = net.JoinHostPort(u.Hostname(), u.Scheme) // "https" is a port by name
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return Check{"server", Warn, "nothing listens on " + address, "start it: nimbus up"}
	}
	conn.Close()
	return Check{Name: "server", Status: OK, Detail: "something listens on " + address}
}

// executors asks each whether it could make a sandbox. One that works is
// enough.
func (m Machine) executors(ctx context.Context) []Check {
	wanted := m.Executors
	if len(wanted) == 0 {
		wanted = nimbus.Executors()
	}
	all, err := host.Executors(host.Config{Data: filepath.Join(m.Data, "agent"), Images: m.Images, VMM: m.VMM, DockerHost: m.DockerHost, Executors: wanted, Programs: m.Programs})
	if err != nil {
		return []Check{{"executors", Fail, err.Error(), nimbus.ErrorHint(err)}}
	}
	var checks []Check
	for _, e := range all {
		s := e.Status(ctx)
		c := Check{Name: s.Name, Status: OK, Detail: s.Detail, Hint: s.Hint}
		if !s.Available {
			c.Status = Fail
			if len(m.Executors) == 0 && s.Name != nimbus.ExecutorMicroVM { // what most jobs ask for
				c.Status = Warn
			}
		}
		checks = append(checks, c)
	}
	return checks
}
