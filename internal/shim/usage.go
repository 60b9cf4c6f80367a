package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Usage is what a tree has used since it was started, as its cgroup counts it.
type Usage struct {
	CPU time.Duration `json:"cpu_ns"`
	// MemoryBytes is of the moment, without files that are only cached.
	MemoryBytes  int64 `json:"memory_bytes"`
	ReadBytes    int64 `json:"read_bytes"` // from disks, and to them
	WrittenBytes int64 `json:"written_bytes"`
	// Member is a process of the tree, 0 for none: its view of the network is
	// that of the tree.
	Member int `json:"-"`
}

// maxMembers bounds how many processes are asked one by one.
const maxMembers = 512

// Usage tells what the tree has used so far, or in all once it has ended. It
// reads a few files: once a second costs nothing to speak of. fs.ErrNotExist
// means that the tree has no cgroup, or its shim left no record.
func (c *Client) Usage(ctx context.Context) (Usage, error) {
	m, err := c.measured(ctx)
	var u Usage
	if err == nil {
		u, err = m.read()
	}
	if gone(err) {
		exit, exitErr := c.readExit()
		if exitErr != nil {
			return Usage{}, errors.Join(err, exitErr)
		}
		return exit.Usage, nil
	}
	return u, err
}

// OOMKills is how many processes of the tree the kernel has killed because the
// tree had no more memory, as far as that is counted.
func (c *Client) OOMKills(ctx context.Context) (int64, error) {
	m, err := c.measured(ctx)
	if err != nil && !gone(err) {
		return 0, err
	}
	if err == nil {
		if _, err := os.Stat(m.procs); err == nil {
			return m.oomKills(), nil
		}
	}
	exit, err := c.readExit()
	return exit.OOMKills, err
}

// gone tells whether an error is that of a cgroup that is there no more.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) }

// measured finds where the tree is counted, once.
func (c *Client) measured(ctx context.Context) (*meter, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.meter != nil {
		return c.meter, nil
	}
	raw, err := os.ReadFile(filepath.Join(c.dir, specFile))
	if err != nil {
		return nil, fmt.Errorf("read shim's spec: %w", err)
	}
	var s Spec
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, fmt.Errorf("decode shim's spec: %w", err)
	}
	if s.Door != nil {
		pid, err := c.PID(ctx)
		if err != nil || pid == 0 {
			return nil, errors.Join(fmt.Errorf("measure tree: its first process is not there: %w", fs.ErrNotExist), err)
		}
		g, err := groupOf(pid)
		if err != nil {
			return nil, err
		}
		if _, err := c.PID(ctx); err != nil { // so it was no other's
			return nil, fmt.Errorf("measure tree: %w", errors.Join(fs.ErrNotExist, err))
		}
		c.meter = newMeter(g)
		return c.meter, nil
	}
	if s.Cgroup.Name == "" {
		return nil, fmt.Errorf("measure tree: it has no cgroup: %w", fs.ErrNotExist)
	}
	trees, err := hierarchies()
	if err != nil {
		return nil, err
	}
	c.meter = newMeter(group{name: s.Cgroup.Name, trees: trees})
	return c.meter, nil
}

// meter knows which file tells what, "" for none: each is in the first hierarchy
// that has it. Without io.stat the processes themselves are asked: v1 does not
// count what goes through the cache.
type meter struct {
	cpuStat, cpuacct, memory, memoryStat, io, oom, procs string
}

// newMeter looks where the group is counted. What no hierarchy counts stays 0.
func newMeter(g group) *meter {
	m := &meter{}
	set := func(into *string, h hierarchy, names ...string) {
		for _, name := range names {
			path := filepath.Join(g.dir(h), name)
			if _, err := os.Stat(path); *into == "" && err == nil {
				*into = path
			}
		}
	}
	for _, h := range g.trees {
		if h.v2 { // which counts the CPU without the controller, too
			set(&m.cpuStat, h, "cpu.stat")
			set(&m.io, h, "io.stat")
		}
		set(&m.cpuacct, h, "cpuacct.usage")
		set(&m.memory, h, "memory.current", "memory.usage_in_bytes")
		set(&m.oom, h, "memory.events", "memory.oom_control")
		set(&m.procs, h, "cgroup.procs")
	}
	if m.memory != "" {
		m.memoryStat = filepath.Join(filepath.Dir(m.memory), "memory.stat")
	}
	return m
}

func (m *meter) read() (Usage, error) {
	var u Usage
	if m.procs == "" {
		return u, fmt.Errorf("measure tree: its cgroup is gone: %w", fs.ErrNotExist)
	}
	members, err := os.ReadFile(m.procs)
	if err != nil {
		return u, fmt.Errorf("measure tree: %w", err)
	}
	if u.CPU, err = m.readCPU(); err != nil {
		return u, err
	}
	if u.MemoryBytes, err = m.readMemory(); err != nil {
		return u, err
	}
	pids := strings.Fields(string(members))
	if len(pids) > 0 {
		u.Member, _ = strconv.Atoi(pids[0]) // the kernel writes numbers
	}
	if m.io != "" {
		u.ReadBytes, u.WrittenBytes, err = ioStat(m.io)
		return u, err
	}
	for _, pid := range pids[:min(len(pids), maxMembers)] {
		read, written := processIO(pid) // gone already is fine: its parent counts it then
		u.ReadBytes += read
		u.WrittenBytes += written
	}
	return u, nil
}

func (m *meter) readCPU() (time.Duration, error) {
	switch {
	case m.cpuStat != "":
		usec, err := counted(m.cpuStat, "usage_usec")
		return time.Duration(usec) * time.Microsecond, err
	case m.cpuacct != "":
		ns, err := number(m.cpuacct)
		return time.Duration(ns), err
	}
	return 0, nil
}

func (m *meter) readMemory() (int64, error) {
	if m.memory == "" {
		return 0, nil
	}
	all, err := number(m.memory)
	if err != nil {
		return 0, err
	}
	cached, err := counted(m.memoryStat, "total_inactive_file", "inactive_file")
	return max(all-cached, 0), err
}

// number reads a file that holds one.
func number(path string) (int64, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("measure tree: %w", err)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("measure tree: read %s: %w", filepath.Base(path), err)
	}
	return n, nil
}

// counted reads the first of the names that a file of names and numbers has; 0
// where it has none.
func counted(path string, names ...string) (int64, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("measure tree: %w", err)
	}
	text := "\n" + string(raw)
	for _, name := range names {
		_, rest, ok := strings.Cut(text, "\n"+name+" ")
		if !ok {
			continue
		}
		value, _, _ := strings.Cut(rest, "\n")
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("measure tree: read %s of %s: %w", name, filepath.Base(path), err)
		}
		return n, nil
	}
	return 0, nil
}

// ioStat adds up what was read and written of all devices.
func ioStat(path string) (read, written int64, err error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, fmt.Errorf("measure tree: %w", err)
	}
	for field := range strings.FieldsSeq(string(raw)) {
		name, value, _ := strings.Cut(field, "=")
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			continue // the number of a device
		}
		switch name {
		case "rbytes":
			read += n
		case "wbytes":
			written += n
		}
	}
	return read, written, nil
}

// processIO is what a process, and those of its children that it has waited for,
// read from disks and wrote to them.
func processIO(pid string) (read, written int64) {
	raw, err := os.ReadFile(filepath.Join("/proc", pid, "io"))
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(raw)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			continue
		}
		switch name {
		case "read_bytes":
			read = n
		case "write_bytes":
			written = n
		}
	}
	return read, written
}

// final is what the tree used in all, and how many of its processes the kernel
// killed for want of memory: read when the first process has ended and the group
// is still there.
func (g group) final() (u Usage, oomKills int64) {
	if len(g.trees) == 0 {
		return u, 0
	}
	m := newMeter(g)
	u, err := m.read()
	if err != nil {
		return Usage{}, 0
	}
	if m.io == "" && g.places == nil { // the process has told its parent: that is us
		u.ReadBytes, u.WrittenBytes = processIO("self")
	}
	return u, m.oomKills()
}

func (m *meter) oomKills() int64 {
	n, err := counted(m.oom, "oom_kill")
	if err != nil {
		return 0 // an old kernel, or no controller: not counted
	}
	return n
}
