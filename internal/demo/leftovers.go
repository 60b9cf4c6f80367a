package demo

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus/internal/host"
)

// settleTimeout is how long what ends may take to be gone, on a machine that emulates
// others and is busy.
const settleTimeout = time.Minute

// checkLeftovers looks for what sandboxes could leave on the machine:
// directories, processes, and what the executors make outside of both (cgroups,
// network namespaces, taps), which they are asked to sweep.
func (d *demo) checkLeftovers(ctx context.Context) {
	for _, name := range d.awaitGone("directory", d.directories) {
		d.problem("left behind: the directory %s", name)
	}
	for _, name := range d.awaitGone("process", d.processes) {
		d.problem("left behind: the process %s", name)
	}
	executors, err := host.Executors(d.Host)
	if err != nil {
		d.problem("what is left behind can't be looked for: %s", err)
	}
	for _, e := range executors {
		swept, err := e.Sweep(ctx, func() []string { return nil })
		if err != nil {
			d.problem("what is left of %s sandboxes can't be removed: %s", e.Name(), err)
		}
		for _, id := range swept {
			d.problem("left behind, and removed now: %s of %s", id, e.Name())
		}
	}
}

// awaitGone looks until nothing is found, or it has taken too long.
func (d *demo) awaitGone(what string, look func() ([]string, error)) []string {
	for deadline := time.Now().Add(settleTimeout); ; {
		found, err := look()
		if err != nil {
			d.problem("what is left of any %s can't be looked for: %s", what, err)
			return nil
		}
		if len(found) == 0 || time.Now().After(deadline) {
			return found
		}
		<-time.After(pollInterval)
	}
}

func (d *demo) directories() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(d.agentDir(), "attempts"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// processes finds those whose command line or directory leads into the agent's
// directory.
func (d *demo) processes() ([]string, error) {
	dir, err := filepath.Abs(d.agentDir())
	if err != nil {
		return nil, err
	}
	pids, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var found []string
	for _, p := range pids {
		pid, err := strconv.Atoi(filepath.Base(p))
		if err != nil || pid == os.Getpid() {
			continue
		}
		args, err := os.ReadFile(filepath.Join(p, "cmdline"))
		if err != nil {
			continue // it has ended
		}
		cwd, _ := os.Readlink(filepath.Join(p, "cwd")) // not ours to read: not ours
		line := string(bytes.TrimSpace(bytes.ReplaceAll(args, []byte{0}, []byte{' '})))
		if strings.Contains(line, dir+"/") || strings.HasPrefix(cwd+"/", dir+"/") {
			found = append(found, strconv.Itoa(pid)+" "+line)
		}
	}
	return found, nil
}
