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

// A daemon that dies as it starts a container forgets what its containerd has
// begun: the container's first process, which waits to be let go, its cgroup and
// its mounts, held by a process of containerd's that is called by the container's
// id. So that id is noted before a start, and no more once that is done. Where a
// note is left and the daemon has no such container, what is called by its id is
// ended: it is 256 random bits that the daemon gave to ours, and is nobody else's.

const (
	// remnantTimeout bounds the wait until a remnant is gone: its containerd has to
	// hear of the end, and removes cgroup and mounts.
	remnantTimeout  = 15 * time.Second
	remnantInterval = 50 * time.Millisecond
	containerDigits = 64 // of an id, hexadecimal
)

func (e *Executor) startingDir() string { return filepath.Join(e.cfg.Dir, "starting") }

// noteStart notes which container is about to be started for a machine.
func (e *Executor) noteStart(machine, container string) error {
	if err := os.MkdirAll(e.startingDir(), 0o700); err != nil {
		return fmt.Errorf("note the start of a container: %w", err)
	}
	if err := os.WriteFile(filepath.Join(e.startingDir(), machine), []byte(container), 0o600); err != nil {
		return fmt.Errorf("note the start of a container: %w", err)
	}
	return nil
}

// started drops the note.
func (e *Executor) started(machine string) error {
	if err := os.Remove(filepath.Join(e.startingDir(), machine)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("note that a container has started: %w", err)
	}
	return nil
}

// clear ends what a daemon has forgotten of a container, which it has not any
// more.
func (e *Executor) clear(ctx context.Context, machine string) error {
	raw, err := os.ReadFile(filepath.Join(e.startingDir(), machine))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for what is left of a start: %w", err)
	}
	id := string(raw)
	if len(id) != containerDigits || strings.Trim(id, "0123456789abcdef") != "" {
		return e.started(machine) // cut off: nothing was started by then
	}
	ctx, cancel := context.WithTimeout(ctx, remnantTimeout)
	defer cancel()
	for told := false; ; told = true {
		left, busy, err := remnants(id)
		if err != nil {
			return err
		}
		if len(left) == 0 && !busy {
			return e.started(machine)
		}
		if !told {
			e.cfg.Log.WarnContext(ctx, "the docker daemon has forgotten a container that it began", "sandbox", machine, "container", id)
		}
		for _, pid := range left {
			if err := end(pid, id); err != nil {
				return err
			}
		}
		select {
		case <-time.After(remnantInterval):
		case <-ctx.Done():
			return fmt.Errorf("end what is left of a start: container %s: %w", id, ctx.Err())
		}
	}
}

// remnants are the processes of a container and who holds it for containerd, and
// whether containerd is removing it just now.
func remnants(id string) (pids []int, busy bool, err error) {
	all, err := os.ReadDir("/proc")
	if err != nil {
		return nil, false, fmt.Errorf("look for what is left of a start: %w", err)
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
		return fmt.Errorf("hold on to what is left of a start: %w", err)
	}
	defer unix.Close(fd)
	if p := partOf(pid, id); p != inside && p != holder {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end what is left of a start: %w", err)
	}
	return nil
}
