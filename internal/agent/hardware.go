package agent

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/gpu/inventory"
)

// maxFactBytes bounds what is read of a file that describes the machine.
const maxFactBytes = 1 << 20

// hardware looks at the machine whose root is fsys: its processor, its GPUs,
// and what of it a job can ask for by a word. What can't be read is not there.
func hardware(fsys fs.FS, data string) nimbus.Inventory {
	inv := nimbus.Inventory{Arch: runtime.GOARCH, Protocol: nimbus.AgentProtocol, GPUs: nvidiaGPUs(fsys)}
	var flags []string
	inv.CPUModel, flags = processor(fsys)
	for flag, word := range map[string]string{"avx2": "avx2", "avx512f": "avx512", "amx_tile": "amx"} {
		if slices.Contains(flags, flag) {
			inv.Capabilities = append(inv.Capabilities, word)
		}
	}
	if len(inv.GPUs) > 0 {
		inv.Capabilities = append(inv.Capabilities, "cuda")
	}
	if dev, err := deviceOf(data); err == nil && onNVMe(fsys, dev) {
		inv.Capabilities = append(inv.Capabilities, "storage-nvme")
	}
	if f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err == nil {
		_ = f.Close() // nothing was written
		inv.Capabilities = append(inv.Capabilities, "kvm")
	}
	slices.Sort(inv.Capabilities)
	return inv
}

// processor is what /proc/cpuinfo tells of the first one.
func processor(fsys fs.FS) (model string, flags []string) {
	first, _, _ := bytes.Cut(fact(fsys, "proc/cpuinfo"), []byte("\n\n"))
	fields := fieldsOf(first)
	return fields["model name"], strings.Fields(fields["flags"])
}

// nvidiaGPUs are the GPUs that NVIDIA's driver lists, by model. An executor that
// gives them to jobs knows more of them, see equip.
func nvidiaGPUs(fsys fs.FS) (groups []nimbus.GPUGroup) {
	paths, err := fs.Glob(fsys, "proc/driver/nvidia/gpus/*/information")
	if err != nil {
		return nil // the pattern is sound
	}
	for _, p := range paths {
		model := fieldsOf(fact(fsys, p))["Model"]
		profile := inventory.Profile(model)
		if profile == "" {
			continue
		}
		i := slices.IndexFunc(groups, func(g nimbus.GPUGroup) bool { return g.Profile == profile })
		if i < 0 {
			i, groups = len(groups), append(groups, nimbus.GPUGroup{Profile: profile, Model: model})
		}
		groups[i].Count++
	}
	slices.SortFunc(groups, func(a, b nimbus.GPUGroup) int { return cmp.Compare(a.Profile, b.Profile) })
	return groups
}

// deviceOf is the block device that a folder, or the one that it will be made
// in, lies on.
func deviceOf(dir string) (uint64, error) {
	var st unix.Stat_t
	for {
		err := unix.Stat(dir, &st)
		if err == nil {
			return st.Dev, nil
		}
		parent := filepath.Dir(dir)
		if !errors.Is(err, unix.ENOENT) || parent == dir {
			return 0, fmt.Errorf("look at %s: %w", dir, err)
		}
		dir = parent
	}
}

// onNVMe tells whether a device is an NVMe disk, part of one, or made of some.
func onNVMe(fsys fs.FS, dev uint64) bool {
	at := fmt.Sprintf("sys/dev/block/%d:%d", unix.Major(dev), unix.Minor(dev))
	if target, err := fs.ReadLink(fsys, at); err == nil && strings.Contains(target, "/nvme") {
		return true
	}
	below, err := fs.ReadDir(fsys, at+"/slaves")
	return err == nil && len(below) > 0 && !slices.ContainsFunc(below, func(e fs.DirEntry) bool { return !strings.HasPrefix(e.Name(), "nvme") })
}

// fact reads a small file of the kernel's, nil where it isn't.
func fact(fsys fs.FS, name string) []byte {
	f, err := fsys.Open(name)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }() // it was only read
	text, err := io.ReadAll(io.LimitReader(f, maxFactBytes))
	if err != nil {
		return nil
	}
	return text
}

// fieldsOf reads lines of "name : value".
func fieldsOf(text []byte) map[string]string {
	fields := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			fields[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
	}
	return fields
}
