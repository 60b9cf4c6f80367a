package guest

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// tree is how all processes of the job are reached.
type tree interface {
	// startProcess starts a process that the caller waits for, and then forgets.
	startProcess(path string, argv []string, attr *os.ProcAttr) (*os.Process, error)
	forget(pid int)
	// kill sends a signal to every process of the job, wherever it has got to.
	kill(sig unix.Signal)
	exit(state *os.ProcessState, err error) *nimbusv1.Exited
}

// namespace is the tree of a guest that is pid 1: every other process is the
// job's. It also reaps what nobody else does.
type namespace struct {
	cgroup string   // of the job, "" where there is none
	limits limits   // of the job, or of all that is in the sandbox
	disks  []string // folders of the disks that are the sandbox' own
	// expendable has the job's processes killed before the guest, with which it
	// shares its memory.
	expendable bool
	// beside is whether other processes than the job's may run, in groups of their
	// own: they end with the job, but hear nothing of what the job is told.
	beside atomic.Bool
	// ending is whether all of them are killed, as they are at the job's end.
	ending atomic.Bool

	mu  sync.Mutex   // held while one is started, so that none is reaped unknown
	own map[int]bool // processes that somebody waits for
}

func (n *namespace) startProcess(path string, argv []string, attr *os.ProcAttr) (*os.Process, error) {
	return n.startIn(n.cgroup, path, argv, attr)
}

// startIn is startProcess in a cgroup; "" is the guest's own.
func (n *namespace) startIn(cgroup, path string, argv []string, attr *os.ProcAttr) (*os.Process, error) {
	if cgroup != "" {
		dir, err := os.Open(cgroup)
		if err != nil {
			return nil, fmt.Errorf("open cgroup: %w", err)
		}
		defer dir.Close()
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(dir.Fd())
	}
	// The reaper must know the process before it can end.
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.expendable {
		defer expend()()
	}
	p, err := os.StartProcess(path, argv, attr)
	if err != nil {
		return nil, err
	}
	if n.own == nil {
		n.own = map[int]bool{}
	}
	n.own[p.Pid] = true
	return p, nil
}

func (n *namespace) forget(pid int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.own, pid)
}

func (n *namespace) kill(sig unix.Signal) {
	if sig == unix.SIGKILL {
		n.ending.Store(true)
	}
	if sig != unix.SIGKILL && n.cgroup != "" && n.beside.Load() {
		signalGroup(n.cgroup, sig)
		return
	}
	_ = unix.Kill(-1, sig) // from pid 1: everything but itself; nothing there is fine
}

// signalGroup sends a signal to all processes of a cgroup and of those below it.
func signalGroup(dir string, sig unix.Signal) {
	if raw, err := os.ReadFile(filepath.Join(dir, "cgroup.procs")); err == nil {
		for _, field := range strings.Fields(string(raw)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 1 {
				_ = unix.Kill(pid, sig) // gone already is fine
			}
		}
	}
	below, err := os.ReadDir(dir)
	if err != nil {
		return // it goes just now
	}
	for _, e := range below {
		if e.IsDir() {
			signalGroup(filepath.Join(dir, e.Name()), sig)
		}
	}
}

func (n *namespace) exit(state *os.ProcessState, err error) *nimbusv1.Exited {
	x := exitOf(state, err)
	x.OutOfMemory, x.OutOfProcesses = n.limits.outOfMemory() || n.beside.Load() && machineShort(containersCgroup), n.limits.outOfProcesses()
	x.DiskFull = slices.ContainsFunc(n.disks, diskFull)
	return x
}

// What is left of a disk that counts as full. A file system keeps some for
// itself, and who writes by the MiB stops before the last one: of 64 MiB and more,
// up to 450 KiB were left. Of a small disk a little is much.
const (
	diskRoom  = 4 << 20
	diskShare = 64 // one part in so many, where that is less
)

// diskFull tells whether next to nothing can be written any more.
func diskFull(path string) bool {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return false
	}
	block := uint64(s.Bsize) //nolint:gosec // a size
	return s.Bavail*block < min(diskRoom, s.Blocks*block/diskShare) || s.Bavail == 0 || s.Files > 0 && s.Ffree == 0
}

// counted is how often a cgroup's file of events has one of them.
func counted(events, what string) int {
	for line := range strings.Lines(events) {
		if rest, ok := strings.CutPrefix(line, what+" "); ok {
			n, err := strconv.Atoi(strings.TrimSpace(rest))
			if err == nil {
				return n
			}
		}
	}
	return 0
}

// reap collects orphans for as long as the guest lives. What was started here
// is left to who waits for it.
func (n *namespace) reap() {
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	for range died {
		n.mu.Lock()
		n.reapAll()
		n.mu.Unlock()
	}
}

// reapAll takes every dead child that nobody waits for.
func (n *namespace) reapAll() {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, task := range tasks {
		raw, err := os.ReadFile("/proc/self/task/" + task.Name() + "/children")
		if err != nil {
			continue
		}
		for _, field := range strings.Fields(string(raw)) {
			if pid, err := strconv.Atoi(field); err == nil && !n.own[pid] {
				_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil) // alive or gone: both fine
			}
		}
	}
}

// session is the tree of a guest that is not pid 1, which only tests are: it
// reaches the sessions of what was started here.
type session struct {
	mu  sync.Mutex
	own map[int]bool
}

func (s *session) startProcess(path string, argv []string, attr *os.ProcAttr) (*os.Process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, err := os.StartProcess(path, argv, attr)
	if err == nil {
		if s.own == nil {
			s.own = map[int]bool{}
		}
		s.own[p.Pid] = true
	}
	return p, err
}

// forget keeps the pid: its session may outlive it.
func (s *session) forget(int) {}

func (s *session) kill(sig unix.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for pid := range s.own {
		_ = syscall.Kill(-pid, sig) // gone already is fine
	}
}

func (s *session) exit(state *os.ProcessState, err error) *nimbusv1.Exited { return exitOf(state, err) }
