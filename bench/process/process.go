// Package process reads what processes cost, from /proc.
package process

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// clockTick is USER_HZ, which Linux fixes at 100 for user space.
const clockTick = 10 * time.Millisecond

// stat are the fields of /proc/PID/stat after the parenthesised name, whose
// first is the state.
func stat(pid int) ([]string, error) {
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return nil, fmt.Errorf("read CPU time: %w", err)
	}
	return strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:])), nil
}

// Places of fields in stat.
const (
	fieldParent, fieldUser, fieldSystem          = 1, 11, 12
	fieldUserOfWaitedFor, fieldSystemOfWaitedFor = 13, 14
)

func ticks(fields []string, places ...int) (time.Duration, error) {
	var sum int64
	for _, i := range places {
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("parse CPU time: %w", err)
		}
		sum += n
	}
	return time.Duration(sum) * clockTick, nil
}

// CPU is user and system time of a process.
func CPU(pid int) (time.Duration, error) {
	fields, err := stat(pid)
	if err != nil {
		return 0, err
	}
	return ticks(fields, fieldUser, fieldSystem)
}

// TreeCPU is that of a process and all that descend from it, those that have
// ended and were waited for among them.
func TreeCPU(root int) (time.Duration, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, fmt.Errorf("list processes: %w", err)
	}
	parent, used := map[int]int{}, map[int]time.Duration{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		fields, err := stat(pid)
		if err != nil {
			continue // it has ended meanwhile
		}
		if parent[pid], err = strconv.Atoi(fields[fieldParent]); err != nil {
			return 0, fmt.Errorf("parse parent: %w", err)
		}
		used[pid], err = ticks(fields, fieldUser, fieldSystem, fieldUserOfWaitedFor, fieldSystemOfWaitedFor)
		if err != nil {
			return 0, err
		}
	}
	var sum time.Duration
	for pid := range parent {
		for p := pid; p != 0; p = parent[p] {
			if p == root {
				sum += used[pid]
				break
			}
		}
	}
	return sum, nil
}

// RSS is the resident set of a process, in bytes.
func RSS(pid int) (int64, error) { return memory(pid, "VmRSS:") }

// PeakRSS is the largest that its resident set ever was, in bytes.
func PeakRSS(pid int) (int64, error) { return memory(pid, "VmHWM:") }

func memory(pid int, what string) (int64, error) {
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0, fmt.Errorf("read memory: %w", err)
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, what); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("parse memory: %w", err)
			}
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("no %s in /proc status", what)
}
