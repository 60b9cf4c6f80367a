package shim

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroupParent is the folder of all our groups in each hierarchy.
const cgroupParent = "nimbus"

// cpuPeriod is the period in which a CPU quota is counted, in µs: the kernel's
// own default.
const cpuPeriod = 100_000

// hierarchy is a mounted cgroup tree. A machine has the unified one (v2), some
// of v1 by controller, or both: then v2 may have no controllers but can still
// kill.
type hierarchy struct {
	path        string
	v2          bool
	controllers []string // v1 only
}

// group is one cgroup, made in every hierarchy that is of use.
type group struct {
	name  string
	trees []hierarchy
	// places are the folders of a group that somebody else made, by the path of
	// its hierarchy; nil for ours.
	places map[string]string
}

// groupOf finds the group that a process is in, which somebody else made and
// will remove. Root's own is none.
func groupOf(pid int) (group, error) {
	trees, err := hierarchies()
	if err != nil {
		return group{}, err
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return group{}, fmt.Errorf("find cgroup of a process: %w", err)
	}
	g := group{places: map[string]string{}}
	for line := range strings.Lines(string(raw)) { // NUMBER:CONTROLLERS:PATH
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, place, ok := strings.Cut(rest, ":")
		if !ok || place == "/" || strings.Contains(place, "..") { // of another namespace
			continue
		}
		for _, h := range trees {
			same := h.v2 == (controllers == "")
			if same && !h.v2 {
				same = slices.ContainsFunc(strings.Split(controllers, ","), func(c string) bool { return slices.Contains(h.controllers, c) })
			}
			if same && g.places[h.path] == "" {
				g.trees, g.places[h.path] = append(g.trees, h), filepath.Join(h.path, place)
			}
		}
	}
	if len(g.trees) == 0 {
		return group{}, fmt.Errorf("find cgroup of a process: it has none of its own: %w", fs.ErrNotExist)
	}
	return g, nil
}

// makeGroup makes the group and sets its limits. What this machine can't do is
// returned as complaints, not as an error: the tree is killed by other means.
func makeGroup(c Cgroup) (g group, complaints []error) {
	g.name = c.Name
	if c.Name == "" || os.Geteuid() != 0 {
		return g, nil
	}
	trees, err := hierarchies()
	if err != nil {
		return g, []error{err}
	}
	for _, h := range trees {
		if h.v2 {
			// The root may hold processes and hand controllers down all the same.
			for _, dir := range []string{h.path, filepath.Join(h.path, cgroupParent)} {
				if err := os.MkdirAll(dir, 0o755); err != nil {
					complaints = append(complaints, err)
				}
				for _, controller := range []string{"+memory", "+cpu", "+pids", "+io"} {
					_ = write(filepath.Join(dir, "cgroup.subtree_control"), controller) // told by the limits below
				}
			}
		}
		if err := os.MkdirAll(g.dir(h), 0o755); err != nil {
			complaints = append(complaints, err)
			continue
		}
		g.trees = append(g.trees, h)
	}
	return g, append(complaints, g.limit(c)...)
}

func (g group) dir(h hierarchy) string {
	if g.places != nil {
		return g.places[h.path]
	}
	return filepath.Join(h.path, cgroupParent, g.name)
}

// limit sets each limit in the first hierarchy that has its controller.
func (g group) limit(c Cgroup) (complaints []error) {
	set := func(what string, value int64, files ...string) {
		if value <= 0 {
			return
		}
		for _, h := range g.trees {
			for _, file := range files {
				path := filepath.Join(g.dir(h), file)
				if _, err := os.Stat(path); err != nil {
					continue
				}
				text := strconv.FormatInt(value, 10)
				if file == "cpu.max" {
					text = fmt.Sprintf("%d %d", value, cpuPeriod)
				}
				if err := write(path, text); err != nil {
					complaints = append(complaints, fmt.Errorf("limit %s: %w", what, err))
				}
				return
			}
		}
		complaints = append(complaints, fmt.Errorf("limit %s: this machine has no cgroup controller for it", what))
	}
	set("memory", c.MemoryBytes, "memory.max", "memory.limit_in_bytes")
	set("cpu", int64(c.CPUs*cpuPeriod), "cpu.max", "cpu.cfs_quota_us")
	set("pids", c.PIDs, "pids.max")
	return complaints
}

// enter moves the calling process into the group; leave moves it out again.
// What it starts in between is in the group from its first instruction.
func (g group) enter() error { return g.move(g.dir) }

func (g group) leave() error { return g.move(func(h hierarchy) string { return h.path }) }

func (g group) move(to func(hierarchy) string) error {
	var errs []error
	for _, h := range g.trees {
		errs = append(errs, write(filepath.Join(to(h), "cgroup.procs"), "0"))
	}
	return errors.Join(errs...)
}

// kill sends SIGKILL to everything in the group: at once where the kernel can,
// else frozen first, so that nothing forks away.
func (g group) kill() {
	for _, h := range g.trees {
		if h.v2 && write(filepath.Join(g.dir(h), "cgroup.kill"), "1") == nil {
			return
		}
	}
	g.freeze("FROZEN")
	for _, h := range g.trees {
		for _, pid := range g.members(h) {
			_ = unix.Kill(pid, unix.SIGKILL) // gone already is fine
		}
	}
	g.freeze("THAWED")
}

func (g group) freeze(state string) {
	for _, h := range g.trees {
		if slices.Contains(h.controllers, "freezer") {
			_ = write(filepath.Join(g.dir(h), "freezer.state"), state) // the kill follows either way
		}
	}
}

func (g group) members(h hierarchy) (pids []int) {
	raw, err := os.ReadFile(filepath.Join(g.dir(h), "cgroup.procs"))
	if err != nil {
		return nil
	}
	for _, field := range strings.Fields(string(raw)) {
		if pid, err := strconv.Atoi(field); err == nil && pid > 1 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// remove takes the group away, waiting a little for the last of its processes.
func (g group) remove() error {
	var errs []error
	for _, h := range g.trees {
		errs = append(errs, removeDir(g.dir(h)))
	}
	return errors.Join(errs...)
}

func removeDir(dir string) error {
	const patience = 2 * time.Second
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) { //nolint:forbidigo // the kernel tells nobody when a cgroup has emptied
		err := os.Remove(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("remove cgroup: %w", err)
		}
	}
}

// RemoveCgroup kills what is in the group of that name and removes it: for
// sweeping up after a shim that was killed. It returns whether there was one.
func RemoveCgroup(name string) (bool, error) {
	trees, err := hierarchies()
	if err != nil {
		return false, err
	}
	g := group{name: name}
	for _, h := range trees {
		if _, err := os.Stat(g.dir(h)); err == nil {
			g.trees = append(g.trees, h)
		}
	}
	if len(g.trees) == 0 {
		return false, nil
	}
	g.kill()
	return true, g.remove()
}

// Cgroups lists the names of our groups on this machine that begin with prefix.
func Cgroups(prefix string) ([]string, error) {
	trees, err := hierarchies()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, h := range trees {
		entries, err := os.ReadDir(filepath.Join(h.path, cgroupParent))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("list cgroups: %w", err)
		}
		for _, e := range entries {
			if e.IsDir() && strings.HasPrefix(e.Name(), prefix) && !slices.Contains(names, e.Name()) {
				names = append(names, e.Name())
			}
		}
	}
	return names, nil
}

// hierarchies reads from the mount table what this machine has.
func hierarchies() ([]hierarchy, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	defer f.Close()
	var trees []hierarchy
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// ID PARENT DEV ROOT PATH OPTIONS … - TYPE SOURCE SUPEROPTIONS
		before, after, ok := strings.Cut(lines.Text(), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 3 {
			continue
		}
		switch right[0] {
		case "cgroup2":
			trees = append(trees, hierarchy{path: left[4], v2: true})
		case "cgroup":
			options := strings.Split(right[2], ",")
			for _, useful := range []string{"memory", "cpu", "cpuacct", "pids", "freezer"} {
				if slices.Contains(options, useful) {
					trees = append(trees, hierarchy{path: left[4], controllers: options})
					break
				}
			}
		}
	}
	return trees, nil
}

// write writes to a file of the kernel, which must exist.
func write(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("set %s: %w", filepath.Base(path), err)
	}
	defer f.Close()
	if _, err := f.WriteString(value); err != nil {
		return fmt.Errorf("set %s to %s: %w", filepath.Base(path), value, err)
	}
	return nil
}
