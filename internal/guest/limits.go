package guest

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// limits are the files in which a cgroup tells how often its bounds were met; ""
// for those that there are not.
type limits struct{ memory, processes string }

// Names of these files, by version of cgroups.
var (
	memoryEvents    = []string{"memory.events", "memory.oom_control"}
	processesEvents = []string{"pids.events"}
)

// limitsOf are those of a group; "" is none.
func limitsOf(dir string) limits {
	if dir == "" {
		return limits{}
	}
	return limits{memory: existing([]string{dir}, memoryEvents), processes: existing([]string{dir}, processesEvents)}
}

// ownLimits are those of the groups that this process is in.
func ownLimits() limits {
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return limits{}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return limits{}
	}
	dirs := groupDirs(string(groups), string(mounts))
	return limits{memory: existing(dirs, memoryEvents), processes: existing(dirs, processesEvents)}
}

// groupDirs are the folders of a process' groups as it sees them: what is
// mounted may be a part of the tree, as in a container.
func groupDirs(groups, mounts string) (dirs []string) {
	paths := map[string]string{} // of the group, by controller; "" is version 2
	for line := range strings.Lines(groups) {
		// NUMBER:CONTROLLERS:PATH
		if fields := strings.SplitN(strings.TrimSpace(line), ":", 3); len(fields) == 3 {
			for _, controller := range strings.Split(fields[1], ",") {
				paths[controller] = fields[2]
			}
		}
	}
	for line := range strings.Lines(mounts) {
		// ID PARENT DEV ROOT PATH OPTIONS … - TYPE SOURCE SUPEROPTIONS
		before, after, _ := strings.Cut(line, " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if len(left) < 5 || len(right) < 3 {
			continue
		}
		var controllers []string
		switch right[0] {
		case "cgroup2":
			controllers = []string{""}
		case "cgroup":
			controllers = strings.Split(right[2], ",")
		}
		for _, controller := range controllers {
			if path, ok := paths[controller]; ok {
				dirs = append(dirs, filepath.Join(left[4], strings.TrimPrefix(path, strings.TrimSuffix(left[3], "/"))))
			}
		}
	}
	return dirs
}

// existing is the first file of these names that one of the folders has.
func existing(dirs, names []string) string {
	for _, dir := range dirs {
		for _, name := range names {
			path := filepath.Join(dir, name)
			if _, err := os.Stat(path); err == nil {
				return path
			}
		}
	}
	return ""
}

// outOfMemory tells whether a process was killed for want of memory.
func (l limits) outOfMemory() bool { return happened(l.memory, "oom_kill") }

// outOfProcesses tells whether one could not be started.
func (l limits) outOfProcesses() bool { return happened(l.processes, "max") }

// machineShort tells whether a process of a cgroup was killed because the machine
// had no memory left. Those of containers with bounds of their own, which were
// met, are the job's business.
func machineShort(dir string) bool {
	raw, err := os.ReadFile(filepath.Join(dir, "memory.events"))
	return err == nil && counted(string(raw), "oom_kill") > counted(string(raw), "oom")
}

func happened(file, what string) bool {
	if file == "" {
		return false
	}
	raw, err := os.ReadFile(file)
	return err == nil && counted(string(raw), what) > 0
}

// expendability is how much sooner than others the kernel takes a job's
// processes where memory is short: the guest has to tell of it.
const expendability = 500

// expend makes what is started from now on expendable, and returns what ends
// that.
func expend() (end func()) {
	const file = "/proc/self/oom_score_adj"
	before, err := os.ReadFile(file)
	if err != nil || os.WriteFile(file, []byte(strconv.Itoa(expendability)), 0) != nil {
		return func() {} // the job's are the largest all the same
	}
	return func() { _ = os.WriteFile(file, before, 0) } // raised by itself, it may go back
}
