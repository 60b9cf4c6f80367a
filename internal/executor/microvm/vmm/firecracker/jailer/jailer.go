// Package jailer is how a Firecracker is locked up: the command line of its
// jailer, the folder that becomes its whole file system, and the user that it
// runs as.
package jailer

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Program is the jailer's name in PATH.
const Program = "jailer"

// maxID is the longest id that the jailer takes.
const maxID = 64

// Jail is one monitor's jail.
type Jail struct {
	// ID is letters, digits and "-"; see ID.
	ID string
	// Base is the folder below which the jail is made.
	Base string
	// Exec is the monitor's program: linked statically, since there are no
	// libraries in a jail, and copied into it by the jailer, so that two
	// monitors share no memory.
	Exec string
	// UID and GID are the jail's own: no other process has them.
	UID, GID int
	// Netns is the path of a network namespace to enter, "" to stay.
	Netns string
	// Cgroup puts the monitor into a group of its own; nil leaves it in the
	// group that it is started in.
	Cgroup *Cgroup
	// Limits bound the process. Zero limits are the jailer's defaults.
	Limits Limits
	// NewPIDNamespace makes the monitor the first process of its own process
	// namespace. The jailer ends then while the monitor goes on, which is not
	// for somebody who waits for it: start the jailer in a new namespace
	// instead.
	NewPIDNamespace bool
	// Args are the monitor's own arguments.
	Args []string
}

// Cgroup is a group that the jailer makes: Parent/<id of the jail>.
type Cgroup struct {
	Version int    // of the hierarchy: 1 or 2
	Parent  string // relative to the hierarchy's root, without "." or ".."
	Values  []CgroupValue
}

// CgroupValue is a limit: what is written to a file of the group.
type CgroupValue struct {
	File, Value string // "memory.max", "536870912"
}

// Limits are resource limits of the process.
type Limits struct {
	FileBytes int64 // the longest file that it can write, its disks included
	OpenFiles int
}

// ID makes an id that the jailer takes of one of ours: "att_01…" has a letter
// that it refuses.
func ID(id string) string { return strings.ReplaceAll(id, "_", "-") }

// Command is the command line that starts the monitor in its jail. It isn't
// made a daemon, and what it writes to stdout is the guest's console: whoever
// starts it supervises it. Its system calls are filtered as Firecracker does by
// default, since nothing here turns that off.
func (j Jail) Command(program string) ([]string, error) {
	if err := j.check(); err != nil {
		return nil, fmt.Errorf("jail: %w", err)
	}
	args := []string{
		program, "--id", j.ID, "--exec-file", j.Exec,
		"--uid", strconv.Itoa(j.UID), "--gid", strconv.Itoa(j.GID), "--chroot-base-dir", j.Base,
	}
	if j.Netns != "" {
		args = append(args, "--netns", j.Netns)
	}
	if c := j.Cgroup; c != nil {
		args = append(args, "--cgroup-version", strconv.Itoa(c.Version), "--parent-cgroup", c.Parent)
		for _, v := range c.Values {
			args = append(args, "--cgroup", v.File+"="+v.Value)
		}
	}
	if j.Limits.FileBytes > 0 {
		args = append(args, "--resource-limit", "fsize="+strconv.FormatInt(j.Limits.FileBytes, 10))
	}
	if j.Limits.OpenFiles > 0 {
		args = append(args, "--resource-limit", "no-file="+strconv.Itoa(j.Limits.OpenFiles))
	}
	if j.NewPIDNamespace {
		args = append(args, "--new-pid-ns")
	}
	return append(append(args, "--"), j.Args...), nil
}

func (j Jail) check() error {
	switch {
	case j.ID == "" || len(j.ID) > maxID || strings.ContainsFunc(j.ID, notInID):
		return fmt.Errorf("the id %q must be 1 to %d letters, digits and hyphens", j.ID, maxID)
	case !filepath.IsAbs(j.Base) || !filepath.IsAbs(j.Exec):
		return errors.New("the base folder and the program must be absolute paths")
	case !strings.Contains(filepath.Base(j.Exec), "firecracker"):
		return fmt.Errorf("the program %s must have firecracker in its name", j.Exec)
	case j.UID <= 0 || j.GID <= 0:
		return fmt.Errorf("user %d, group %d: a jail must not run as root", j.UID, j.GID)
	case j.Netns != "" && !filepath.IsAbs(j.Netns):
		return errors.New("the network namespace must be an absolute path")
	case j.Limits.FileBytes < 0 || j.Limits.OpenFiles < 0:
		return errors.New("limits must not be negative")
	case slices.ContainsFunc(j.Args, func(a string) bool { return a == "--no-seccomp" || a == "--seccomp-filter" }):
		return errors.New("the filter of system calls stays as it is")
	}
	return j.Cgroup.check()
}

func notInID(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-'
}

func (c *Cgroup) check() error {
	if c == nil {
		return nil
	}
	if c.Version != 1 && c.Version != 2 {
		return fmt.Errorf("there is no cgroup version %d", c.Version)
	}
	if c.Parent == "" || !filepath.IsLocal(c.Parent) || filepath.Clean(c.Parent) != c.Parent || c.Parent == "." {
		return fmt.Errorf("the cgroup's parent %q must be a plain relative path", c.Parent)
	}
	for _, v := range c.Values {
		// The jailer splits at "=" and takes no second one.
		if v.File == "" || v.Value == "" || strings.ContainsAny(v.File, "/=") || strings.ContainsAny(v.Value, "=\n") {
			return fmt.Errorf("the cgroup value %s=%s is malformed", v.File, v.Value)
		}
	}
	return nil
}

// Root is the folder that becomes the monitor's "/".
func (j Jail) Root() Root {
	return Root{Path: filepath.Join(j.Base, filepath.Base(j.Exec), j.ID, "root"), UID: j.UID, GID: j.GID}
}
