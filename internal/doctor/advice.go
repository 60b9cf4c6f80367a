package doctor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// kernelTree is what a kernel tells of itself and its processors below a root.
// What isn't there to be read is left out: containers see but a part of it.
type kernelTree struct{ root string }

func (k kernelTree) read(path string) (string, bool) {
	text, err := os.ReadFile(filepath.Join(k.root, path))
	return strings.TrimSpace(string(text)), err == nil
}

// advice is about what sandboxes of several tenants on one machine can learn of
// each other, and where a machine is a guest itself. Nothing of it keeps jobs
// from running.
func (k kernelTree) advice() []Check {
	var checks []Check
	for _, look := range []func() (Check, bool){k.nested, k.threads, k.merging, k.swap, k.flaws} {
		if c, ok := look(); ok {
			checks = append(checks, c)
		}
	}
	return checks
}

// nested: a machine that is a guest needs its own host's leave to have guests.
func (k kernelTree) nested() (Check, bool) {
	cpu, ok := k.read("proc/cpuinfo")
	if !ok {
		return Check{}, false
	}
	c := Check{Name: "virtual", Status: OK, Detail: "a machine of its own"}
	if !hasFlag(cpu, "hypervisor") {
		return c, true
	}
	c.Detail = "a guest of another machine, which lets it have guests"
	if _, err := os.Stat(filepath.Join(k.root, "dev/kvm")); errors.Is(err, fs.ErrNotExist) && !hasFlag(cpu, "vmx") && !hasFlag(cpu, "svm") {
		return Check{"virtual", Warn, "a guest of another machine, without nested virtualisation: microVMs are emulated",
			"turn nested virtualisation on for this machine, or take one of bare metal"}, true
	}
	return c, true
}

func hasFlag(cpuinfo, flag string) bool {
	for line := range strings.Lines(cpuinfo) {
		if name, flags, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "flags" {
			return slices.Contains(strings.Fields(flags), flag)
		}
	}
	return false
}

func (k kernelTree) threads() (Check, bool) {
	active, ok := k.read("sys/devices/system/cpu/smt/active")
	if !ok {
		return Check{}, false
	}
	if active == "1" {
		return Check{"smt", Warn, "two threads share a core, and so can two tenants' jobs",
			"for tenants who don't trust each other: echo off > /sys/devices/system/cpu/smt/control, or nosmt on the kernel's command line"}, true
	}
	return Check{Name: "smt", Status: OK, Detail: "no two threads share a core"}, true
}

func (k kernelTree) merging() (Check, bool) {
	run, ok := k.read("sys/kernel/mm/ksm/run")
	if !ok {
		return Check{}, false
	}
	if run == "1" {
		return Check{"ksm", Warn, "the kernel merges pages alike, by which a sandbox can tell what is in another", "echo 2 > /sys/kernel/mm/ksm/run"}, true
	}
	return Check{Name: "ksm", Status: OK, Detail: "pages are not merged"}, true
}

func (k kernelTree) swap() (Check, bool) {
	swaps, ok := k.read("proc/swaps")
	if !ok {
		return Check{}, false
	}
	if areas := strings.Count(swaps, "\n"); areas > 0 {
		return Check{"swap", Warn, "memory of sandboxes may be written to a disk, and slows them when it is", "swapoff -a, and take it out of /etc/fstab; or encrypt it"}, true
	}
	return Check{Name: "swap", Status: OK, Detail: "none"}, true
}

func (k kernelTree) flaws() (Check, bool) {
	paths, _ := filepath.Glob(filepath.Join(k.root, "sys/devices/system/cpu/vulnerabilities/*")) // the pattern is right
	if len(paths) == 0 {
		return Check{}, false
	}
	var open []string
	for _, path := range paths {
		if text, err := os.ReadFile(path); err == nil && strings.HasPrefix(string(text), "Vulnerable") {
			open = append(open, filepath.Base(path))
		}
	}
	if len(open) > 0 {
		return Check{"cpu flaws", Warn, "nothing is done about " + strings.Join(open, ", "),
			"update the kernel and the processor's microcode, and leave mitigations on"}, true
	}
	return Check{Name: "cpu flaws", Status: OK, Detail: "the kernel deals with those it knows"}, true
}
