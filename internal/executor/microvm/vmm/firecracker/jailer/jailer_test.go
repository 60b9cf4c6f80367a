package jailer

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func jail() Jail {
	return Jail{ID: "att-1", Base: "/srv/jail", Exec: "/usr/bin/firecracker", UID: 4000, GID: 4001}
}

// TestCommand compares whole command lines: an argument more or less is a wall
// more or less.
func TestCommand(t *testing.T) {
	t.Parallel()
	const least = "/j --id att-1 --exec-file /usr/bin/firecracker --uid 4000 --gid 4001 --chroot-base-dir /srv/jail"
	for name, c := range map[string]struct {
		change func(*Jail)
		want   string
	}{
		"least":     {func(*Jail) {}, least + " --"},
		"arguments": {func(j *Jail) { j.Args = []string{"--api-sock", "/api.sock"} }, least + " -- --api-sock /api.sock"},
		"network":   {func(j *Jail) { j.Netns = "/run/netns/a" }, least + " --netns /run/netns/a --"},
		"limits": {
			func(j *Jail) { j.Limits = Limits{FileBytes: 1 << 30, OpenFiles: 2048} },
			least + " --resource-limit fsize=1073741824 --resource-limit no-file=2048 --",
		},
		"cgroup 2": {
			func(j *Jail) {
				j.Cgroup = &Cgroup{Version: 2, Parent: "nimbus/vms", Values: []CgroupValue{{"memory.max", "536870912"}, {"cpu.max", "200000 100000"}}}
			},
			least + " --cgroup-version 2 --parent-cgroup nimbus/vms --cgroup memory.max=536870912 --cgroup cpu.max=200000 100000 --",
		},
		"cgroup 1":          {func(j *Jail) { j.Cgroup = &Cgroup{Version: 1, Parent: "nimbus"} }, least + " --cgroup-version 1 --parent-cgroup nimbus --"},
		"process namespace": {func(j *Jail) { j.NewPIDNamespace = true }, least + " --new-pid-ns --"},
	} {
		j := jail()
		c.change(&j)
		args, err := j.Command("/j")
		if diff := cmp.Diff(c.want, strings.Join(args, " ")); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", name, err, diff)
		}
	}
}

// TestCommandRefuses: what would weaken the jail, or what the jailer would refuse
// in the middle of a start.
func TestCommandRefuses(t *testing.T) {
	t.Parallel()
	group := func(c Cgroup) func(*Jail) { return func(j *Jail) { j.Cgroup = &c } }
	for name, change := range map[string]func(*Jail){
		"no id":              func(j *Jail) { j.ID = "" },
		"an id with a slash": func(j *Jail) { j.ID = "../a" },
		"one of ours":        func(j *Jail) { j.ID = "att_1" },
		"a long id":          func(j *Jail) { j.ID = strings.Repeat("a", 65) },
		"root":               func(j *Jail) { j.UID = 0 },
		"root's group":       func(j *Jail) { j.GID = 0 },
		"relative base":      func(j *Jail) { j.Base = "jail" },
		"relative program":   func(j *Jail) { j.Exec = "firecracker" },
		"another program":    func(j *Jail) { j.Exec = "/bin/sh" },
		"relative netns":     func(j *Jail) { j.Netns = "a" },
		"no filter":          func(j *Jail) { j.Args = []string{"--no-seccomp"} },
		"another filter":     func(j *Jail) { j.Args = []string{"--seccomp-filter", "x"} },
		"negative limit":     func(j *Jail) { j.Limits.OpenFiles = -1 },
		"cgroup 3":           group(Cgroup{Version: 3, Parent: "a"}),
		"cgroup's root":      group(Cgroup{Version: 2, Parent: "/a"}),
		"cgroup's parent":    group(Cgroup{Version: 2, Parent: "a/../../b"}),
		"no parent":          group(Cgroup{Version: 2, Parent: "."}),
		"a value's folder":   group(Cgroup{Version: 2, Parent: "a", Values: []CgroupValue{{"../memory.max", "1"}}}),
		"two equal signs":    group(Cgroup{Version: 2, Parent: "a", Values: []CgroupValue{{"io.max", "8:0 rbps=1"}}}),
	} {
		j := jail()
		change(&j)
		if args, err := j.Command("/j"); err == nil {
			t.Errorf("%s: %v", name, args)
		}
	}
}

func TestID(t *testing.T) {
	t.Parallel()
	j := jail()
	j.ID = ID("att_01m8atarqk9hz56abv09ace6gh")
	if _, err := j.Command("/j"); err != nil || j.ID != "att-01m8atarqk9hz56abv09ace6gh" {
		t.Error(j.ID, err)
	}
}
