package docker

import (
	"bytes"
	"context"
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

// A daemon that dies as it starts a container, or ends one, forgets what its
// containerd has of it: a first process that waits to be let go, its cgroup and its
// mounts, held by a process of containerd's that is called by the container's id.
// So that id is noted from before the start on. Once the daemon has no such
// container any more, what is called by its id is ended: it is 256 random bits that
// the daemon gave to ours, and is nobody else's.

const (
	// remnantGrace is for containerd's process to end by itself, as it does after
	// most removals.
	remnantGrace = 2 * time.Second
	// remnantTimeout bounds the wait until a remnant is gone: its containerd has to
	// hear of the end, and removes cgroup and mounts.
	remnantTimeout  = 15 * time.Second
	remnantInterval = 20 * time.Millisecond
	// unfinishedAge is for how long containerd may go on with a start whose daemon
	// is dead, and have something that it had not before.
	unfinishedAge   = 20 * time.Second
	containerDigits = 64 // of an id, hexadecimal
	finished        = "started"
)

func (e *Executor) notesDir() string { return filepath.Join(e.cfg.Dir, "containers") }

// note adds a line to what is known of a machine's container: its id before it is
// started, and then that it is. A machine may have had others of which nobody
// knows the end.
func (e *Executor) note(machine, words string) error {
	if err := os.MkdirAll(e.notesDir(), 0o700); err != nil {
		return fmt.Errorf("note a container: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(e.notesDir(), machine), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("note a container: %w", err)
	}
	_, err = f.WriteString(words + "\n")
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("note a container: %w", err)
	}
	return nil
}

// clear ends what a daemon has forgotten of a container, which it has not any
// more. The note of a start that was not finished stays for a while: the sweep
// looks again.
func (e *Executor) clear(ctx context.Context, machine string) error {
	path := filepath.Join(e.notesDir(), machine)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	info, statErr := os.Stat(path)
	if err = errors.Join(err, statErr); err != nil {
		return fmt.Errorf("look for what is left of a container: %w", err)
	}
	ids, unfinished := noted(string(raw))
	for _, id := range ids {
		if err := e.endRemnants(ctx, machine, id); err != nil {
			return err
		}
	}
	if unfinished && time.Since(info.ModTime()) < unfinishedAge {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget a container: %w", err)
	}
	return nil
}

// noted are the containers of a note, and whether the start of one was not
// finished. Before a line was whole nothing was started.
func noted(note string) (ids []string, unfinished bool) {
	open := 0
	for line := range strings.Lines(note) {
		line, whole := strings.CutSuffix(line, "\n")
		switch {
		case !whole:
		case line == finished:
			open--
		case len(line) == containerDigits && strings.Trim(line, "0123456789abcdef") == "":
			ids = append(ids, line)
			open++
		}
	}
	return ids, open > 0
}

// endRemnants returns once nothing is called by a container's id any more.
func (e *Executor) endRemnants(ctx context.Context, machine, id string) error {
	ctx, cancel := context.WithTimeout(ctx, remnantTimeout)
	defer cancel()
	began, told := time.Now(), false
	for {
		left, busy, err := remnants(id)
		if err != nil {
			return err
		}
		if len(left) == 0 && !busy {
			return removeGroups(id)
		}
		if time.Since(began) > remnantGrace {
			if !told {
				told = true
				e.cfg.Log.WarnContext(ctx, "the docker daemon has forgotten a container that it had", "sandbox", machine, "container", id)
			}
			for _, pid := range left {
				if err := end(pid, id); err != nil {
					return err
				}
			}
		}
		select {
		case <-time.After(remnantInterval):
		case <-ctx.Done():
			return fmt.Errorf("end what is left of container %s: %w", id, ctx.Err())
		}
	}
}

// removeGroups removes the control groups of a container without processes: a
// containerd that heard of no end leaves them.
func removeGroups(id string) error {
	for _, hierarchy := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} { // the unified one, and each of v1
		for _, name := range []string{"docker/" + id, "system.slice/docker-" + id + ".scope"} {
			found, err := filepath.Glob(filepath.Join(hierarchy, name))
			if err != nil {
				return fmt.Errorf("look for control groups of a container: %w", err)
			}
			for _, dir := range found {
				if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
					return fmt.Errorf("remove a control group of container %s: %w", id, err)
				}
			}
		}
	}
	return nil
}

// remnants are the processes of a container and who holds it for containerd, and
// whether containerd is removing it just now.
func remnants(id string) (pids []int, busy bool, err error) {
	all, err := os.ReadDir("/proc")
	if err != nil {
		return nil, false, fmt.Errorf("look for what is left of a container: %w", err)
	}
	for _, e := range all {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		switch partOf(pid, id) {
		case inside, holder:
			pids = append(pids, pid)
		case remover:
			busy = true
		}
	}
	return pids, busy, nil
}

// part is what a process is to a container.
type part int

const (
	stranger part = iota
	inside        // it is in the container's cgroup
	holder        // containerd's process that has begun it, and whose end is its
	remover       // one that containerd starts after that
)

// partOf tells what a process is to a container: by its words where it is
// containerd's, else by its cgroup.
func partOf(pid int, id string) part {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil || len(cmdline) == 0 { // it has ended
		return stranger
	}
	program, _, _ := bytes.Cut(cmdline, []byte{0})
	if strings.HasPrefix(filepath.Base(string(program)), "containerd-shim") {
		switch {
		case !bytes.Contains(cmdline, []byte("\x00-id\x00"+id+"\x00")):
			return stranger
		case bytes.HasSuffix(cmdline, []byte("\x00delete\x00")):
			return remover
		}
		return holder
	}
	groups, err := os.ReadFile(filepath.Join(dir, "cgroup"))
	if err != nil {
		return stranger
	}
	for line := range strings.Lines(string(groups)) {
		for name := range strings.SplitSeq(strings.TrimSpace(line), "/") {
			if name == id || name == "docker-"+id+".scope" {
				return inside
			}
		}
	}
	return stranger
}

// end kills a process, if it still is what it was found to be once it is held.
func end(pid int, id string) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("hold on to what is left of a container: %w", err)
	}
	defer unix.Close(fd)
	if p := partOf(pid, id); p != inside && p != holder {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end what is left of a container: %w", err)
	}
	return nil
}
